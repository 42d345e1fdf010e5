"""Exit codes of a container that could not be started."""

import pytest

from skerry.base.errors import InvalidInput, NotFound, SkerryError, SystemFault
from skerry.cli.commands.run import start_failure


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput('exec: "x": executable file not found in $PATH'), 127),
        (InvalidInput('exec: "/x": stat /x: no such file or directory'), 127),
        (InvalidInput('exec: "/etc": is a directory'), 126),
        (InvalidInput('exec: "/x": permission denied'), 126),
        (InvalidInput("exec /x: exec format error"), 126),
        (InvalidInput("unable to find user x"), 125),
        (SystemFault("make cgroup /sys/fs/cgroup/x: Permission denied"), 125),
        (NotFound("no such file or directory"), 125),
    ],
)
def test_whose_fault_it_is(error: SkerryError, code: int) -> None:
    assert start_failure(error) == code
