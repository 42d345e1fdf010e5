"""Where the control groups are: v1, hybrid or unified, and which controller is mounted where.

`parse_layout` is pure; `detect` gives it the files (proc_pid_mountinfo(5), cgroups(7)).
"""

import os

from skerry.base.errors import InvalidInput
from skerry.base.light import Any, NamedTuple
from skerry.kernel.mountinfo import plain

V2_MOUNT = "/sys/fs/cgroup"
"""Where systemd and others mount the unified hierarchy when nothing else is in use."""

PATH_MAX = 4096
NAME_MAX = 255


class Hierarchy(NamedTuple):
    """One mounted tree of control groups."""

    controllers: tuple[str, ...]
    """As in /proc/self/cgroup (`name=systemd` for a tree without controllers); on v2 what the
    tree's root offers."""
    mount: str
    """The mount point, without a trailing slash."""
    own: str
    """The caller's group in this tree, below the mount point; `/` at its root."""


class Layout(NamedTuple):
    """The control groups of this host, as the caller's mount namespace shows them."""

    mode: str
    """`v1`, `hybrid` (v1 controllers beside a v2 tree), `unified`, or `none`."""
    hierarchies: tuple[Hierarchy, ...]
    """The v1 trees; empty on `unified`."""
    unified: Hierarchy | None
    """The v2 tree, if it is mounted; it carries the limits only on `unified`."""

    @property
    def version(self) -> int:
        """2 when limits are set on the v2 tree, 1 for v1 and hybrid, 0 for none."""
        return {"unified": 2, "none": 0}.get(self.mode, 1)

    @property
    def controllers(self) -> frozenset[str]:
        """Names of the controllers that can limit something here; v1 names on v1 (`blkio`)."""
        if self.mode == "unified" and self.unified:
            return frozenset(self.unified.controllers)
        names = {name for tree in self.hierarchies for name in tree.controllers}
        return frozenset(name for name in names if not name.startswith("name="))

    def mount_of(self, controller: str) -> str:
        """The mount point of a controller; empty when it is not mounted."""
        if self.mode == "unified" and self.unified:
            return self.unified.mount if controller in self.unified.controllers else ""
        for tree in self.hierarchies:
            if controller in tree.controllers:
                return tree.mount
        return ""

    @classmethod
    def from_plain(cls, plain: Any) -> "Layout":
        """The layout that went through a plain tuple (marshal, JSON)."""
        mode, trees, unified = plain
        return cls(
            mode,
            tuple(Hierarchy(tuple(c), mount, own) for c, mount, own in trees),
            Hierarchy(tuple(unified[0]), unified[1], unified[2]) if unified else None,
        )


class _Mount(NamedTuple):
    root: str
    point: str
    fstype: str
    options: frozenset[str]


def _mounts(mountinfo: str) -> list[_Mount]:
    found = []
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        words, tail = left.split(" "), right.split(" ")
        if not dash or len(words) < 6 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        options = frozenset(tail[2].split(","))
        found.append(_Mount(plain(words[3]), plain(words[4]), tail[0], options))
    return found


def _below(path: str, root: str) -> str | None:
    """`path` seen from `root`: with a leading slash, None when it lies outside."""
    if root == "/":
        return path
    if path == root:
        return "/"
    return path[len(root) :] if path.startswith(root + "/") else None


def _tree(names: tuple[str, ...], path: str, mounts: list[_Mount]) -> Hierarchy | None:
    """The mount that shows the caller's group, else any mount of the tree; of several the one in
    the usual place: others may be copies in some container's root, or covered."""
    fstype = "cgroup" if names else "cgroup2"
    wanted = set(names)
    inside = outside = None
    for mount in mounts:
        if mount.fstype != fstype or not wanted <= mount.options:
            continue
        own = _below(path, mount.root)
        if own is None:
            outside = outside or Hierarchy(names, mount.point, "/")
        elif f"{mount.point}/".startswith(f"{V2_MOUNT}/"):
            return Hierarchy(names, mount.point, own)
        else:
            inside = inside or Hierarchy(names, mount.point, own)
    return inside or outside


def parse_layout(mountinfo: str, cgroup: str, v2_controllers: str = "") -> Layout:
    """The layout from the text of /proc/self/mountinfo and /proc/self/cgroup.

    `v2_controllers` is the text of cgroup.controllers at the v2 mount point. Lines that are not
    understood are passed over. A v2 tree on /sys/fs/cgroup is in charge even when some program has
    mounted a stray v1 tree (net_cls, name=systemd) elsewhere.
    """
    mounts = _mounts(mountinfo)
    trees: list[Hierarchy] = []
    unified = None
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if not colon or not path.startswith("/"):
            continue
        if names:
            tree = _tree(tuple(names.split(",")), path, mounts)
            if tree and all(tree.mount != other.mount for other in trees):
                trees.append(tree)
        elif number == "0" and unified is None:
            unified = _tree((), path, mounts)
    if unified:
        unified = unified._replace(controllers=tuple(v2_controllers.split()))
    in_charge = any(not c.startswith("name=") for tree in trees for c in tree.controllers)
    if unified and (unified.mount == V2_MOUNT or not in_charge):
        return Layout("unified", (), unified)
    if trees:
        return Layout("hybrid" if unified else "v1", tuple(trees), unified)
    return Layout("none", (), None)


def detect() -> Layout:
    """The layout of this host, from /proc. Read anew each time (about 0.2 ms): keep the result."""
    mountinfo, cgroup = _read("/proc/self/mountinfo"), _read("/proc/self/cgroup")
    layout = parse_layout(mountinfo, cgroup)
    if layout.unified is None:
        return layout
    return parse_layout(mountinfo, cgroup, _read(f"{layout.unified.mount}/cgroup.controllers"))


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""


def container_path(given: str, container_id: str, layout: Layout, *, systemd: bool = False) -> str:
    """Where a container's group is made, below the mount points: `/skerry/<id>` when `given` is
    empty.

    `given` is `linux.cgroupsPath`. An absolute path counts from the mount point; a relative one
    from the caller's own group on v2 (its parent when that holds processes cannot be known here,
    so beside it) and from the mount point on v1, where each tree has its own idea of "own".
    With `systemd` the form is `slice:prefix:name`, mapped to the path systemd would choose.
    Raises InvalidInput for `..`, NUL, and what is too long.
    """
    if systemd and given.count(":") == 2:
        given = _scope_path(given)
    path = given or f"/skerry/{container_id}"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path or "\n" in path:
        raise InvalidInput(
            f"cgroup path {path!r:.200} is not allowed",
            hint="linux.cgroupsPath may hold neither `..` nor line breaks",
        )
    if not parts or len(path) > PATH_MAX or any(len(os.fsencode(p)) > NAME_MAX for p in parts):
        raise InvalidInput(f"cgroup path {path!r:.200} names no group, or is too long")
    if not path.startswith("/") and layout.version == 2 and layout.unified:
        # A group with processes cannot have children with limits: stand beside the caller's.
        above = os.path.dirname(layout.unified.own)
        parts = [part for part in above.split("/") if part] + parts
    return "/" + "/".join(parts)


def _scope_path(given: str) -> str:
    """The path of a scope unit: `a-b.slice:pre:name` is /a.slice/a-b.slice/pre-name.scope."""
    parent, prefix, name = given.split(":")
    parent = parent or "system.slice"
    if parent == "-.slice":
        parent = ""
    elif not parent.endswith(".slice") or "/" in parent:
        raise InvalidInput(
            f"cgroup path {given!r:.200}: {parent!r} is not a slice",
            hint="with --systemd-cgroup write slice:prefix:name, as in machine.slice:skerry:web",
        )
    steps, above = [], ""
    for part in parent.removesuffix(".slice").split("-"):
        if part:
            above = f"{above}-{part}" if above else part
            steps.append(f"{above}.slice")
    if not name.endswith(".slice"):
        name = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return "/" + "/".join([*steps, name])
