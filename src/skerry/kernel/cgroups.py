"""Control groups: where they are, what limits mean in them, and the group of one container.

layout = detect()
path = container_path(spec["linux"].get("cgroupsPath", ""), container_id, layout)
group = Cgroup(path, layout)
group.create(plan(path, resources, layout))
pid, pidfd = clone3(flags, cgroup_fd=group.directory_fd())      # cgroup v2
...                                                             # in the child, on v1:
group.join_self()
"""

from skerry.kernel.cgroups_files import UNLIMITED, Write
from skerry.kernel.cgroups_group import Cgroup, OomWatch
from skerry.kernel.cgroups_layout import (
    Hierarchy,
    Layout,
    container_path,
    detect,
    parse_layout,
)
from skerry.kernel.cgroups_plan import plan

__all__ = [
    "UNLIMITED",
    "Cgroup",
    "Hierarchy",
    "Layout",
    "OomWatch",
    "Write",
    "container_path",
    "detect",
    "parse_layout",
    "plan",
]
