"""The `local` volume driver's options, and the call that each asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError, SystemFault
from skerry.engine.local_driver import KNOWN, Options, parse, plan
from skerry.kernel import mounts


def test_a_bind_mount() -> None:
    call = plan(parse({"type": "none", "device": "/srv", "o": "rbind,ro,rshared"}))
    assert (call.source, call.fstype, call.recursive) == ("/srv", "", True)
    assert call.attributes == (mounts.ATTR_RDONLY, 0)
    assert call.propagation == (mounts.MS_SHARED | mounts.MS_REC,)


def test_a_tmpfs() -> None:
    call = plan(parse({"type": "tmpfs", "device": "tmpfs", "o": "size=100m,uid=1000,nosuid"}))
    assert (call.source, call.fstype) == ("tmpfs", "tmpfs")
    assert (call.flags, call.data) == (mounts.MS_NOSUID, "size=100m,uid=1000")


def test_nfs_by_address_and_by_name() -> None:
    options = {"type": "nfs", "device": ":/export", "o": "addr=127.0.0.1,rw,nolock"}
    assert plan(parse(options)).data == "addr=127.0.0.1,nolock"
    options["o"] = "addr=localhost,vers=4"
    assert plan(parse(options)).data in ("addr=127.0.0.1,vers=4", "addr=::1,vers=4")
    options["o"] = "addr=no-such-host.invalid"
    with pytest.raises(SystemFault, match="network volume address"):
        plan(parse(options))
    # Only remote file systems have an address.
    assert plan(Options("tmpfs", "tmpfs", "addr=x")).data == "addr=x"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"colour": "red"}, 'invalid option: "colour"'),
        ({"type": "nfs"}, 'missing required option: "device"'),
        ({"device": "/x"}, 'missing required option: "type"'),
        ({"o": "ro"}, 'missing required option: "device"'),
        ({"size": "much"}, "invalid size"),
        ({"type": "tmpfs", "device": "tmpfs", "size": "1m"}, "does not fit a mounted device"),
        ({"type": "none", "device": "x", "o": "bind"}, "absolute"),
        ({"type": "none", "device": "/x\0y"}, "null byte"),
    ],
)
def test_what_is_refused(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        parse(given)


@given(st.dictionaries(st.sampled_from(KNOWN), st.text(max_size=30)))
def test_any_options(given: dict[str, str]) -> None:
    try:
        options = parse(given)
    except SkerryError:
        return
    assert options.mounts == bool(given.get("device"))
    assert options.size >= 0
