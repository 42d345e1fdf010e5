"""The OCI `linux.seccomp` object as checked, frozen data (config-linux.md, "Seccomp")."""

from collections.abc import Mapping

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.light import Any, Final, NamedTuple
from skerry.kernel.seccomp import FLAGS

# linux/seccomp.h
KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000
ACTION_MASK = 0xFFFF0000

ACTIONS: Final[dict[str, int]] = {
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_NOTIFY": NOTIFY,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
STRICTNESS: Final = (KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, LOG, ALLOW)
"""Actions from the strictest on, the kernel's own order of precedence."""

OPERATORS: Final = frozenset(
    f"SCMP_CMP_{op}" for op in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
)
ARCHITECTURES: Final = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL"),
        *("MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC"),
        *("PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB"),
    )
)
MAX_RULES = 4096
MAX_NAMES = 4096
_EPERM = 1
_U64 = (1 << 64) - 1


class Condition(NamedTuple):
    """One comparison of a system call's argument (0 to 5), unsigned, 64 bits wide."""

    argument: int
    operator: str
    value: int
    value_two: int = 0
    """For SCMP_CMP_MASKED_EQ: (argument & value) == value_two."""


class Rule(NamedTuple):
    """`verdict` for these system calls when all `conditions` hold."""

    names: tuple[str, ...]
    verdict: int
    conditions: tuple[Condition, ...] = ()


class Policy(NamedTuple):
    """A whole profile. Verdicts are the 32 bits that a filter returns."""

    default: int
    architectures: tuple[str, ...]
    """OCI names besides the native one."""
    rules: tuple[Rule, ...]
    knows_enosys: bool
    """The profile itself answers unknown calls with a default errno of ENOSYS."""


def parse_policy(seccomp: Mapping[str, Any]) -> Policy:
    """Check and freeze an OCI seccomp object.

    InvalidInput names what is unknown or malformed: actions, operators, architectures, indexes,
    numbers. System call names are not checked: kernels and architectures differ in them.
    """
    if not isinstance(seccomp, Mapping):
        raise InvalidInput("linux.seccomp must be an object")
    default_errno = seccomp.get("defaultErrnoRet")
    default = _verdict(seccomp.get("defaultAction"), default_errno, "defaultAction")
    if default & ACTION_MASK == NOTIFY:
        raise InvalidInput("linux.seccomp: SCMP_ACT_NOTIFY cannot be the defaultAction")
    architectures = tuple(dict.fromkeys(_list(seccomp, "architectures", 64)))
    for name in architectures:
        if name not in ARCHITECTURES:
            raise InvalidInput(f"linux.seccomp: unknown architecture {name!r:.60}")
    for name in _list(seccomp, "flags", 16):
        if not isinstance(name, str) or name not in FLAGS:
            raise InvalidInput(f"linux.seccomp: unknown flag {name!r:.60}")
    rules: list[Rule] = []
    for entry in _list(seccomp, "syscalls", MAX_RULES):
        rules.extend(_rules(entry))
    return Policy(default, architectures, tuple(rules), default_errno == 38)


def _list(owner: Mapping[str, Any], field: str, limit: int) -> list[Any]:
    value = owner.get(field)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"linux.seccomp.{field} must be a list")
    if len(value) > limit:
        raise LimitExceeded(f"linux.seccomp.{field} has {len(value)} entries, at most {limit}")
    return list(value)


def _number(value: object, what: str, most: int = _U64) -> int:
    # A bool is an int to Python, never to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidInput(f"linux.seccomp: {what} is {value!r:.60}, not a number up to {most}")
    return value


def _verdict(action: object, errno: object, where: str) -> int:
    verdict = ACTIONS.get(action) if isinstance(action, str) else None
    if verdict is None:
        raise InvalidInput(f"linux.seccomp: unknown {where} {action!r:.60}")
    if verdict in (ERRNO, TRACE):
        return verdict | (_EPERM if errno is None else _number(errno, "errnoRet", 0xFFFF))
    if errno is not None:
        raise InvalidInput(f"linux.seccomp: {action} takes no errno")
    return verdict


def _rules(entry: object) -> list[Rule]:
    if not isinstance(entry, Mapping):
        raise InvalidInput("linux.seccomp.syscalls must hold objects")
    names = tuple(_list(entry, "names", MAX_NAMES))
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInput("linux.seccomp: a rule needs a list of system call names")
    verdict = _verdict(entry.get("action"), entry.get("errnoRet"), "action")
    if verdict & ACTION_MASK == NOTIFY and "write" in names:
        # The runtime hands the listener over with write(2) after the filter is in force.
        raise InvalidInput("linux.seccomp: SCMP_ACT_NOTIFY cannot be used for write")
    conditions = [_condition(arg) for arg in _list(entry, "args", 64)]
    indexes = [condition.argument for condition in conditions]
    if len(set(indexes)) < len(indexes):
        # One rule can test an argument once only; runc takes several tests as alternatives.
        return [Rule(names, verdict, (condition,)) for condition in conditions]
    return [Rule(names, verdict, tuple(conditions))]


def _condition(arg: object) -> Condition:
    if not isinstance(arg, Mapping):
        raise InvalidInput("linux.seccomp: args must hold objects")
    operator = arg.get("op")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise InvalidInput(f"linux.seccomp: unknown operator {operator!r:.60}")
    return Condition(
        _number(arg.get("index"), "argument index", 5),
        operator,
        _number(arg.get("value"), "argument value"),
        _number(arg.get("valueTwo") or 0, "argument valueTwo"),
    )
