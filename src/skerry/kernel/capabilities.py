"""Capabilities: names, sets, and the calls that give them up (capabilities(7)).

Order in a container's init, which must be kept:

1. `drop_bounding(sets.bounding)` while still privileged: PR_CAPBSET_DROP needs CAP_SETPCAP.
2. `keep_on_setuid(True)`, then setgroups, setgid, setuid: leaving uid 0 clears the permitted set
   unless PR_SET_KEEPCAPS is on; it clears the effective set in any case.
3. `apply(sets)`: capset, then the ambient set, which may only hold what is permitted and
   inheritable; then PR_SET_KEEPCAPS off again.

execve afterwards computes the program's sets from these; uid 0 regains permitted up to the
bounding set, which is why the bounding set is dropped first and for every user.
"""

import ctypes
from collections.abc import Iterable, Mapping

from skerry.base.errors import InvalidInput
from skerry.base.light import Any, Final, NamedTuple
from skerry.kernel.syscalls import Call, checked, do, libc

# linux/capability.h, in the order of their numbers.
_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)

CAPABILITIES: Final[dict[str, int]] = {f"CAP_{name}": nr for nr, name in enumerate(_NAMES.split())}
"""Every capability that Linux has had up to 5.9, by its OCI name."""

ALL: Final[tuple[str, ...]] = tuple(CAPABILITIES)

DOCKER_DEFAULT: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""What a container holds unless asked otherwise, the same fourteen as Docker's."""

# linux/prctl.h
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# linux/capability.h: version 3 takes two 32-bit halves of each set.
_VERSION_3 = 0x20080522


class CapabilitySets(NamedTuple):
    """The five sets of OCI `process.capabilities`, as bit masks (bit number = capability)."""

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0
    unknown: tuple[str, ...] = ()
    """Names that this list or the running kernel does not know: to be warned about, not granted."""


def mask(names: Iterable[str]) -> int:
    """The bit mask of OCI capability names; InvalidInput on one that is not in `CAPABILITIES`."""
    result = 0
    for name in names:
        number = CAPABILITIES.get(name)
        if number is None:
            raise InvalidInput(f"unknown capability: {name!r:.60}")
        result |= 1 << number
    return result


def names(bits: int) -> tuple[str, ...]:
    """The names of the capabilities in a mask, in the order of their numbers."""
    return tuple(name for name, number in CAPABILITIES.items() if bits >> number & 1)


_last = -1


def last_capability() -> int:
    """The highest capability number of the running kernel.

    Asked of the kernel itself: /proc may be a container's here, and what a file of the image says
    must not decide which capabilities are dropped.
    """
    global _last
    if _last < 0:
        number = 0
        while number < 63 and libc.prctl(_PR_CAPBSET_READ, number + 1, 0, 0, 0) >= 0:
            number += 1
        _last = number
    return _last


def known_to_kernel() -> tuple[str, ...]:
    """Names of the capabilities that the running kernel has."""
    return ALL[: last_capability() + 1]


def parse(capabilities: Mapping[str, Any] | None) -> CapabilitySets:
    """OCI `process.capabilities` as masks; None is no capability at all.

    A name that cannot be granted is collected in `unknown`, for the specification forbids failing
    on it (config.md, "capabilities"). InvalidInput when a set is not a list of strings.
    """
    if capabilities is None:
        return CapabilitySets()
    if not isinstance(capabilities, Mapping):
        raise InvalidInput("process.capabilities must be an object")
    known = set(known_to_kernel())
    masks: dict[str, int] = {}
    unknown: dict[str, None] = {}
    for field in ("bounding", "effective", "inheritable", "permitted", "ambient"):
        given = capabilities.get(field) or ()
        if not isinstance(given, list | tuple) or not all(isinstance(n, str) for n in given):
            raise InvalidInput(f"process.capabilities.{field} must be a list of names")
        masks[field] = mask(name for name in given if name in known)
        unknown.update(dict.fromkeys(name for name in given if name not in known))
    return CapabilitySets(**masks, unknown=tuple(unknown))


_remembered = -1


def _bounding() -> int:
    numbers = range(last_capability() + 1)
    return sum(1 << n for n in numbers if libc.prctl(_PR_CAPBSET_READ, n, 0, 0, 0) == 1)


def remember_bounding() -> None:
    """Ask for the bounding set once, for this process and those forked from it. Who calls this does
    not drop from it itself."""
    global _remembered
    _remembered = _bounding()


def drop_bounding(keep: int) -> None:
    """Remove every capability that is not in `keep` from the bounding set. Needs CAP_SETPCAP."""
    for call in bounding_calls(keep):
        do(call)


def bounding_calls(keep: int) -> list[Call]:
    """The calls of `drop_bounding`, for the caller's bounding set as it is now."""
    calls: list[Call] = []
    left = (_bounding() if _remembered < 0 else _remembered) & ~keep
    for number in range(left.bit_length()):
        if not left >> number & 1:
            continue
        name = ALL[number] if number < len(ALL) else str(number)
        words = (_PR_CAPBSET_DROP, number, 0, 0, 0)
        calls.append((libc.prctl, words, f"drop {name} from the bounding set"))
    return calls


def keep_on_setuid(keep: bool) -> None:
    """Whether leaving uid 0 keeps the permitted set (PR_SET_KEEPCAPS); execve switches it off."""
    do(keep_on_setuid_call(keep))


def keep_on_setuid_call(keep: bool) -> Call:
    """`keep_on_setuid`, prepared."""
    return libc.prctl, (_PR_SET_KEEPCAPS, int(keep), 0, 0, 0), "set keep-capabilities"


def _capset(permitted: int, effective: int, inheritable: int) -> Call:
    """The three classic sets of the calling thread (capset(2), version 3)."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = (ctypes.c_uint32 * 6)(
        *(effective & low, permitted & low, inheritable & low),
        *(effective >> high, permitted >> high, inheritable >> high),
    )
    return libc.capset, (header, data), "set capabilities"


def _ambient(bits: int) -> list[Call]:
    """Make the ambient set exactly `bits`; each must be permitted and inheritable already."""
    words = (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    calls: list[Call] = [(libc.prctl, words, "clear ambient capabilities")]
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            words = (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
            calls.append((libc.prctl, words, f"raise ambient {ALL[number]}"))
    return calls


def current() -> CapabilitySets:
    """The calling thread's own sets; `ambient` is left 0."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    checked(libc.capget(header, data), "read capabilities")
    effective, permitted, inheritable = (data[i] | data[i + 3] << 32 for i in range(3))
    return CapabilitySets(_bounding(), effective, inheritable, permitted)


def apply(sets: CapabilitySets) -> None:
    """Take on `sets`, as far as the caller holds them, and switch PR_SET_KEEPCAPS off.

    What the caller does not hold itself (an engine in a restricted environment) is left out, since
    the specification forbids failing on it. To be called after setuid; the bounding set is
    `drop_bounding`'s.
    """
    for call in apply_calls(sets):
        do(call)


def apply_calls(sets: CapabilitySets) -> list[Call]:
    """The calls of `apply`, for what the caller holds now."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    checked(libc.capget(header, data), "read capabilities")
    held = data[1] | data[4] << 32
    permitted = sets.permitted & held
    # Without CAP_SETPCAP inheritable may only grow by what is permitted; never ask for more.
    inheritable = sets.inheritable & held
    return [
        _capset(permitted, sets.effective & permitted, inheritable),
        *_ambient(sets.ambient & permitted & inheritable),
        keep_on_setuid_call(False),
    ]
