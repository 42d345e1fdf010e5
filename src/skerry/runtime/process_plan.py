"""The OCI `process` object as a `ProcessPlan`: names to numbers, profiles to programs."""

from skerry.base.errors import InvalidInput
from skerry.base.light import Any
from skerry.base.oci_runtime import Process, Spec
from skerry.kernel import capabilities, seccomp
from skerry.runtime.steps import ProcessPlan

_LIMITS = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO "
    "RTTIME"
)
RLIMITS: dict[str, int] = {f"RLIMIT_{name}": number for number, name in enumerate(_LIMITS.split())}
"""asm-generic/resource.h; the same numbers on all architectures that are supported here."""

# linux/sched.h, uapi
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
# linux/ioprio.h
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13
# linux/personality.h
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
_MAX_SIZE = 0xFFFF


def plan_process(
    process: Process,
    spec: Spec,
    *,
    new_keyring: bool = True,
    preserve_fds: int = 0,
    seccomp_cache: str = "",
) -> ProcessPlan:
    """The plan of a process in the container that `spec` describes, its first one or a further one.

    Raises InvalidInput for names that do not exist.
    """
    linux = spec.get("linux", {})
    sets = capabilities.parse(process.get("capabilities"))
    user = process.get("user", {})
    size = process.get("consoleSize", {})
    profile = linux.get("seccomp") or {}
    program = seccomp.compile_profile(profile, cache_dir=seccomp_cache) if profile else b""
    return ProcessPlan(
        args=tuple(process["args"]),
        env=tuple(process.get("env", ())),
        cwd=process["cwd"],
        uid=user.get("uid", 0),
        gid=user.get("gid", 0),
        groups=tuple(user.get("additionalGids", ())),
        umask=user.get("umask", -1),
        bounding=sets.bounding,
        effective=sets.effective,
        permitted=sets.permitted,
        inheritable=sets.inheritable,
        ambient=sets.ambient,
        no_new_privileges=process.get("noNewPrivileges", False),
        rlimits=tuple(_rlimit(dict(limit)) for limit in process.get("rlimits", ())),
        oom_score_adj=process.get("oomScoreAdj"),
        seccomp=program,
        seccomp_flags=seccomp.flags_of(profile) if profile else 0,
        seccomp_listener=str(profile.get("listenerPath", "")),
        seccomp_metadata=str(profile.get("listenerMetadata", "")),
        apparmor=process.get("apparmorProfile", ""),
        selinux=process.get("selinuxLabel", ""),
        terminal=process.get("terminal", False),
        rows=min(max(size.get("height", 0), 0), _MAX_SIZE),
        columns=min(max(size.get("width", 0), 0), _MAX_SIZE),
        io_priority=_io_priority(process.get("ioPriority")),
        scheduler=_scheduler(process.get("scheduler")),
        personality=_personality(linux.get("personality")),
        new_keyring=new_keyring,
        preserve_fds=preserve_fds,
    )


def _rlimit(limit: dict[str, Any]) -> tuple[int, int, int]:
    kind = limit.get("type", "")
    if kind not in RLIMITS:
        raise InvalidInput(f"rlimit type {kind!r:.60} does not exist")
    soft, hard = limit.get("soft", 0), limit.get("hard", 0)
    # -1 is how other runtimes' tools write infinity.
    top = (1 << 64) - 1
    soft, hard = (value % (1 << 64) for value in (soft, hard))
    if soft > hard and hard != top:
        raise InvalidInput(f"{kind}: the soft limit {soft} is above the hard limit {hard}")
    return RLIMITS[kind], soft, hard


def _io_priority(given: dict[str, Any] | None) -> int:
    if not given:
        return -1
    name, priority = given.get("class", ""), given.get("priority", 0)
    if name not in _IO_CLASSES or not 0 <= priority <= 7:
        raise InvalidInput(f"ioPriority {name!r:.60} {priority} does not exist")
    return _IO_CLASSES[name] << _IO_CLASS_SHIFT | int(priority)


def _scheduler(
    given: dict[str, Any] | None,
) -> tuple[int, int, int, int, int, int, int] | None:
    if not given:
        return None
    policy = given.get("policy", "")
    if policy not in _POLICIES:
        raise InvalidInput(f"scheduler policy {policy!r:.60} does not exist")
    flags = 0
    for name in given.get("flags", ()):
        if name not in _SCHED_FLAGS:
            raise InvalidInput(f"scheduler flag {name!r:.60} does not exist")
        flags |= _SCHED_FLAGS[name]
    nice, priority = given.get("nice", 0), given.get("priority", 0)
    times = [given.get(name, 0) for name in ("runtime", "deadline", "period")]
    if not -20 <= nice <= 19 or not 0 <= priority <= 99 or any(t < 0 for t in times):
        raise InvalidInput("scheduler: nice is -20 to 19, priority 0 to 99, times are not negative")
    return (_POLICIES[policy], flags, nice, priority, times[0], times[1], times[2])


def _personality(given: dict[str, Any] | None) -> int:
    if not given:
        return -1
    domain = given.get("domain", "")
    if domain not in _DOMAINS:
        raise InvalidInput(f"personality domain {domain!r:.60} does not exist")
    if given.get("flags"):
        raise InvalidInput("additional flags of the personality are not supported")
    return _DOMAINS[domain]
