"""From a seccomp policy to a classic BPF program.

Shape of the result: the architecture is looked at first, since the same number is another call
elsewhere; then a binary search finds the range that holds the number, and a range answers with a
verdict or looks at arguments. The default policy takes some 200 instructions for x86-64 and
its two 32-bit companions, where one comparison per call takes five times as many; the
kernel's time to load a filter grows with its length.

How rules for one call combine, as libseccomp does: the first rule without conditions wins over all
others; else the conditions are tried in order; else the default holds. A rule that only repeats
the default is left out before.

Calls newer than the profile: when the default denies, numbers above the highest call that the
profile names (per architecture) get ENOSYS instead, as runc has it, so that C libraries fall back
to older calls instead of taking EPERM for an answer.
"""

from collections.abc import Iterable

from skerry.base.errors import Unsupported
from skerry.base.light import NamedTuple
from skerry.kernel.classic_bpf import AT_LEAST, EQUAL, GREATER, Assembler
from skerry.kernel.seccomp_policy import (
    ACTION_MASK,
    ALLOW,
    ERRNO,
    KILL_THREAD,
    LOG,
    STRICTNESS,
    TRACE,
    Condition,
    Policy,
    Rule,
)
from skerry.kernel.syscall_table import numbers

# struct seccomp_data, linux/seccomp.h; all machines below are little-endian.
_NR, _ARCH, _ARGS = 0, 4, 16
_X32_BIT = 0x40000000
_ENOSYS = ERRNO | 38
_LOW = 0xFFFFFFFF


class _Machine(NamedTuple):
    audit: int
    """AUDIT_ARCH_*, linux/audit.h."""
    table: str
    wide: bool
    """Arguments are 64 bits wide."""


_MACHINES = {
    "SCMP_ARCH_X86_64": _Machine(0xC000003E, "x86_64", True),
    "SCMP_ARCH_X86": _Machine(0x40000003, "x86", False),
    "SCMP_ARCH_X32": _Machine(0xC000003E, "x32", False),
    "SCMP_ARCH_AARCH64": _Machine(0xC00000B7, "aarch64", True),
    "SCMP_ARCH_ARM": _Machine(0x40000028, "arm", False),
}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}

# On i386 these also exist as the first argument of two older calls: linux/net.h, linux/ipc.h.
_SOCKETCALL = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto "
    "recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
_SOCKET_CALLS = {name: number for number, name in enumerate(_SOCKETCALL.split(), 1)}
_IPC_CALLS = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}

Branch = tuple[tuple[Condition, ...], int]


class Decision(NamedTuple):
    """What one call gets: the verdict of the first branch whose conditions all hold."""

    branches: tuple[Branch, ...]
    otherwise: int
    wide: bool = True
    """Arguments are compared with all 64 bits, else with the lower 32 only."""


def compile_policy(policy: Policy, machine: str) -> bytes:
    """The program for a host whose `uname -m` is `machine`; equal input gives equal bytes.

    Unsupported when there is no table for that machine. Other architectures of the profile that
    cannot occur on the host are left out: their calls are killed like any foreign one's.
    """
    native = _NATIVE.get(machine)
    if native is None:
        raise Unsupported(f"seccomp: no system call table for {machine}")
    names = dict.fromkeys((native, *policy.architectures))
    asm = Assembler()
    # Killing the thread is what libseccomp does with a foreign architecture.
    entry = asm.ret(KILL_THREAD)
    sections: dict[int, int] = {}
    for name in sorted(names, key=lambda n: n == native):
        known = _MACHINES.get(name)
        if known is None or name == "SCMP_ARCH_X32":
            continue
        x32 = _X32_BIT if name == "SCMP_ARCH_X86_64" else 0
        ranges = _ranges(policy, known, _X32_BIT if x32 else 1 << 32)
        if x32 and "SCMP_ARCH_X32" in names:
            second = _ranges(policy, _MACHINES["SCMP_ARCH_X32"], 1 << 32)
            ranges += [(start + x32, decision) for start, decision in second]
        elif x32:
            # Number -1 is what a tracer leaves behind to skip a call; it is no x32 call.
            ranges += [(x32, Decision((), KILL_THREAD)), (_LOW, Decision((), policy.default))]
        found = _search(asm, ranges)
        sections[known.audit] = asm.load(_NR, found)
    for audit, section in sections.items():
        entry = asm.compare(EQUAL, audit, section, entry)
    return asm.program(asm.load(_ARCH, entry))


def _ranges(policy: Policy, machine: _Machine, end: int) -> list[tuple[int, Decision]]:
    """Call numbers of one architecture as sorted ranges below `end`, each with its decision."""
    table = numbers(machine.table)
    default = Decision((), policy.default)
    by_number = _decisions(policy, table, machine)
    ranges: list[tuple[int, Decision]] = [(0, default)]

    def put(start: int, decision: Decision) -> None:
        if ranges[-1][0] == start:
            ranges.pop()
        if not ranges or ranges[-1][1] != decision:
            ranges.append((start, decision))

    for number in sorted(by_number):
        put(number, by_number[number])
        put(number + 1, default)
    last = max((table.get(n, -1) for rule in policy.rules for n in rule.names), default=-1)
    denies = policy.default & ACTION_MASK not in (ALLOW, LOG, TRACE)
    if denies and not policy.knows_enosys and 0 <= last < end:
        put(last + 1, Decision((), _ENOSYS))
    return ranges


def _decisions(policy: Policy, table: dict[str, int], machine: _Machine) -> dict[int, Decision]:
    plain: dict[int, int] = {}
    branches: dict[int, list[Branch]] = {}
    for rule in policy.rules:
        if rule.verdict == policy.default:
            continue
        for name in rule.names:
            if (number := table.get(name)) is not None:
                if rule.conditions:
                    branches.setdefault(number, []).append((rule.conditions, rule.verdict))
                else:
                    plain.setdefault(number, rule.verdict)
            if machine.table == "x86":
                for old, branch in _multiplexed(rule, name, policy.default):
                    branches.setdefault(table[old], []).append(branch)
    conditional = {
        number: Decision(tuple(found), policy.default, machine.wide)
        for number, found in branches.items()
    }
    return conditional | {number: Decision((), verdict) for number, verdict in plain.items()}


def _multiplexed(rule: Rule, name: str, default: int) -> Iterable[tuple[str, Branch]]:
    """The same rule for socketcall(2) or ipc(2).

    Arguments of the inner call lie in memory there, out of a filter's sight: a stricter rule then
    holds for every argument, a laxer one for none.
    """
    if rule.conditions and _strictness(rule.verdict) > _strictness(default):
        return
    if name in _SOCKET_CALLS:
        condition = Condition(0, "SCMP_CMP_EQ", _SOCKET_CALLS[name])
        yield "socketcall", ((condition,), rule.verdict)
    elif name in _IPC_CALLS:
        # The upper half of ipc's first argument is a version.
        masked = Condition(0, "SCMP_CMP_MASKED_EQ", 0xFFFF, _IPC_CALLS[name])
        yield "ipc", ((masked,), rule.verdict)


def _strictness(verdict: int) -> int:
    return STRICTNESS.index(verdict & ACTION_MASK)


def _search(asm: Assembler, ranges: list[tuple[int, Decision]]) -> int:
    def leaf(decision: Decision) -> int:
        if not decision.branches:
            return asm.ret(decision.otherwise)
        intervals = _intervals(decision)
        if intervals is None:
            return _branches(asm, decision)
        index = decision.branches[0][0][0].argument
        low = asm.load(_ARGS + 8 * index, asm.search(intervals, asm.ret))
        if not decision.wide:
            return low
        beyond = asm.ret(_evaluate(decision, 1 << 32))
        return asm.load(_ARGS + 8 * index + 4, asm.compare(EQUAL, 0, low, beyond))

    return asm.search(ranges, leaf)


def _intervals(decision: Decision) -> list[tuple[int, int]] | None:
    """A decision on one argument, by order and below 2**32 only, as ranges of that argument.

    None when it cannot be put so. A dozen alternatives (socket families, personalities) then cost
    a search instead of a chain.
    """
    conditions = [condition for branch, _ in decision.branches for condition in branch]
    if len({condition.argument for condition in conditions}) != 1 or any(
        condition.operator == "SCMP_CMP_MASKED_EQ" or (decision.wide and condition.value > _LOW)
        for condition in conditions
    ):
        return None
    values = {condition.value & _LOW for condition in conditions}
    edges = sorted({0} | values | {value + 1 for value in values if value < _LOW})
    found: list[tuple[int, int]] = []
    for edge in edges:
        verdict = _evaluate(decision, edge)
        if not found or found[-1][1] != verdict:
            found.append((edge, verdict))
    return found


def _evaluate(decision: Decision, argument: int) -> int:
    """The verdict when the one argument that is looked at has this value."""
    width = (1 << 64) - 1 if decision.wide else _LOW
    for conditions, verdict in decision.branches:
        if all(_holds(c.operator, argument, c.value & width) for c in conditions):
            return verdict
    return decision.otherwise


def _holds(operator: str, argument: int, value: int) -> bool:
    return {
        "SCMP_CMP_EQ": argument == value,
        "SCMP_CMP_NE": argument != value,
        "SCMP_CMP_LT": argument < value,
        "SCMP_CMP_LE": argument <= value,
        "SCMP_CMP_GT": argument > value,
        "SCMP_CMP_GE": argument >= value,
    }[operator]


def _branches(asm: Assembler, decision: Decision) -> int:
    following = asm.ret(decision.otherwise)
    for conditions, verdict in reversed(decision.branches):
        label = asm.ret(verdict)
        for condition in reversed(conditions):
            label = _condition(asm, condition, decision.wide, label, following)
        following = label
    return following


def _condition(asm: Assembler, condition: Condition, wide: bool, yes: int, no: int) -> int:
    """Code that goes on at `yes` when the condition holds, else at `no`: high word, then low."""
    operator = condition.operator.removeprefix("SCMP_CMP_")
    if operator in ("NE", "LT", "LE"):
        operator = {"NE": "EQ", "LT": "GE", "LE": "GT"}[operator]
        yes, no = no, yes
    low_at = _ARGS + 8 * condition.argument
    high, low = condition.value >> 32, condition.value & _LOW
    if operator == "MASKED_EQ":
        wanted = condition.value_two & condition.value
        label = asm.compare(EQUAL, wanted & _LOW, yes, no)
        label = asm.load(low_at, asm.mask(low, label))
        if not wide or not high:
            return label
        label = asm.compare(EQUAL, wanted >> 32, label, no)
        return asm.load(low_at + 4, asm.mask(high, label))
    code = {"EQ": EQUAL, "GE": AT_LEAST, "GT": GREATER}[operator]
    label = asm.load(low_at, asm.compare(code, low, yes, no))
    if not wide:
        return label
    label = asm.compare(EQUAL, high, label, no)
    if operator != "EQ":
        label = asm.compare(GREATER, high, yes, label)
    return asm.load(low_at + 4, label)
