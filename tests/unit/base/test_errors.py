"""Errors: the two families, their messages and exit codes."""

import errno

import pytest

from skerry.base import errors
from skerry.base.errors import GuestFault, KernelFault, SkerryError

OURS = [each for each in vars(errors).values() if isinstance(each, type)]


def test_two_families_that_share_nothing() -> None:
    for each in OURS:
        assert issubclass(each, SkerryError) != issubclass(each, GuestFault)


def test_exit_codes_are_dockers() -> None:
    assert errors.NotFound("x").exit_code == 125
    assert errors.CommandNotFound("x").exit_code == 127
    assert errors.CommandNotExecutable("x").exit_code == 126


def test_the_hint_stands_apart() -> None:
    error = errors.Conflict("name taken", hint="choose another")
    assert error.message == "name taken"
    assert error.hint == "choose another"
    assert str(error) == "name taken\nchoose another"
    assert str(errors.Conflict("name taken")) == "name taken"


def test_kernel_faults_keep_errno_and_name_the_call() -> None:
    fault = KernelFault("open /x", errno.ENOENT, hint="h")
    assert (fault.errno, fault.action) == (errno.ENOENT, "open /x")
    assert fault.message == "open /x: no such file or directory"
    assert isinstance(fault, errors.SystemFault)


@pytest.mark.parametrize("kind", [errors.LimitExceeded, errors.DigestMismatch])
def test_hostile_input_is_invalid_input(kind: type[SkerryError]) -> None:
    assert issubclass(kind, errors.InvalidInput)
