"""A plan in words, one step a line: for people, for logs, and for tests that compare plans."""

from skerry.kernel.capabilities import names as capability_names
from skerry.kernel.namespaces import FLAGS
from skerry.runtime.steps import MountStep, Plan, ProcessPlan


def describe(plan: Plan) -> list[str]:
    """The steps in the order of execution."""
    lines = []
    if plan.cgroup_path:
        lines.append(f"make cgroup {plan.cgroup_path}")
        lines += [f"  {write}" for write in plan.cgroup_writes]
    lines += [f"new {name} namespace" for name, flag in FLAGS.items() if plan.new_namespaces & flag]
    by_flag = {flag: name for name, flag in FLAGS.items()}
    lines += [f"join {by_flag[join.flag]} namespace {join.path}" for join in plan.joins]
    for name, rows in (("uid", plan.uid_map), ("gid", plan.gid_map)):
        lines += [f"map {name} {r.container} to {r.host}, {r.size} of them" for r in rows]
    lines += [f"shift clock {clock} by {s}.{ns:09} s" for clock, s, ns in plan.time_offsets]
    if plan.overlay:
        lines.append(
            f"root: overlay of {len(plan.overlay.lower)} layers, upper {plan.overlay.upper}"
        )
    else:
        lines.append(f"root: {plan.rootfs}")
    lines += [_mount(step) for step in plan.mounts]
    lines += [
        f"node {d.path} {d.major}:{d.minor} mode {d.mode:o} owner {d.uid}:{d.gid}"
        for d in plan.devices
    ]
    lines += [f"hostname {plan.hostname}"] if plan.hostname else []
    lines += [f"domainname {plan.domainname}"] if plan.domainname else []
    lines += [f"sysctl {path} = {value}" for path, value in plan.sysctls]
    for kind, hooks in plan.hooks:
        lines += [f"hook {kind}: {' '.join(hook.args)}" for hook in hooks]
    lines += [f"read-only {path}" for path in plan.readonly]
    lines += [f"mask {path}" for path in plan.masked]
    if plan.root_readonly:
        lines.append("read-only root")
    lines.append("pivot_root" if plan.pivot else "chroot")
    return lines + (describe_process(plan.process) if plan.process else [])


def describe_process(process: ProcessPlan) -> list[str]:
    """The steps of one process."""
    lines = []
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        held = capability_names(getattr(process, name))
        lines.append(f"capabilities {name}: {' '.join(held) or 'none'}")
    lines.append(f"user {process.uid}:{process.gid} groups {list(process.groups)}")
    lines += [f"limit {kind}: {soft} {hard}" for kind, soft, hard in process.rlimits]
    if process.no_new_privileges:
        lines.append("no new privileges")
    if process.seccomp:
        lines.append(f"seccomp: {len(process.seccomp) // 8} instructions")
    lines.append(f"cwd {process.cwd}")
    lines.append(f"execute {list(process.args)}")
    return lines


def _mount(step: MountStep) -> str:
    words = [step.kind, step.source or step.fstype, "on", step.target]
    fields = step._asdict()
    words += [f"{name}={fields[name]}" for name in ("fstype", "data") if fields[name]]
    numbers = ("flags", "attr_set", "attr_clear", "tree_set", "tree_clear")
    words += [f"{name}={fields[name]:#x}" for name in numbers if fields[name]]
    words += [f"propagation={flag:#x}" for flag in step.propagation]
    words += ["recursive"] if step.recursive else []
    words += ["copy-up"] if step.copy_up else []
    words += ["idmapped"] if step.idmap is not None else []
    return " ".join(words)
