"""What a change of hardware makes of it."""

import pytest

from skerry.base.errors import InvalidInput, NotFound
from skerry.engine.vms.creation import NicWish
from skerry.engine.vms.editing import Changes, fewer_and_more
from skerry.machine.full.spec import Cdrom, Disk, Forward, Hardware, Nic, Share

OLD = Hardware(
    uuid="u",
    disks=(Disk("disk0", "a/b", 1 << 20),),
    cdroms=(Cdrom("cd0"), Cdrom("cd1")),
    nics=(
        Nic("none", "52:54:00:00:00:01"),
        Nic("nat", "52:54:00:00:00:02", forwards=(Forward(1, 2),)),
    ),
    shares=(Share("/srv", "srv"),),
)


def test_devices_go_by_name_and_others_come() -> None:
    new = fewer_and_more(
        OLD,
        Changes(
            detach=("cd0", "net0", "srv", "disk0"),
            add_nics=(NicWish("internal", "lab", "52:54:00:00:00:03"),),
            add_shares=(Share("/home", "home"),),
            add_forwards=(Forward(5, 6),),
            drop_forwards=("1/tcp",),
        ),
    )
    assert new.cdroms == (Cdrom("cd1"),)
    assert new.shares == (Share("/home", "home"),)
    assert [nic.kind for nic in new.nics] == ["nat", "internal"]
    assert new.nics[0].forwards == (Forward(5, 6),)
    assert new.disks == OLD.disks


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (Changes(detach=("disk7",)), NotFound),
        (Changes(drop_forwards=("9/tcp",)), NotFound),
        (Changes(detach=("net1",), add_forwards=(Forward(3, 4),)), InvalidInput),
    ],
)
def test_what_is_not_there_cannot_go(changes: Changes, error: type[Exception]) -> None:
    with pytest.raises(error):
        fewer_and_more(OLD, changes)
