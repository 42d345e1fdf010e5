"""Device rules of a container: OCI's list, the kernel's v1 list, and what every container may open.

A rule is OCI's `linux.resources.devices` entry: type (`a`, `b`, `c`), major, minor, access (of
`rwm`), allow; the last rule that matches decides. The v1 controller knows one default and
exceptions from it (Documentation/admin-guide/cgroup-v1/devices.rst), so the list is folded first.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.light import Any, NamedTuple

ANY = -1
_MAX = (1 << 32) - 1


class DeviceRule(NamedTuple):
    """One rule with every field filled in; ANY stands for all numbers."""

    kind: str
    """`a`, `b` or `c`."""
    major: int
    minor: int
    access: str
    """Letters of `rwm` in this order."""
    allow: bool

    def __str__(self) -> str:
        if self.kind == "a":
            return "a"
        numbers = ":".join("*" if n == ANY else str(n) for n in (self.major, self.minor))
        return f"{self.kind} {numbers} {self.access}"

    def as_oci(self) -> dict[str, Any]:
        """The rule as an entry of `linux.resources.devices`."""
        rule: dict[str, Any] = {"allow": self.allow, "type": self.kind, "access": self.access}
        if self.major != ANY:
            rule["major"] = self.major
        if self.minor != ANY:
            rule["minor"] = self.minor
        return rule


DEFAULT_RULES = (
    DeviceRule("c", ANY, ANY, "m", True),
    DeviceRule("b", ANY, ANY, "m", True),
    DeviceRule("c", 1, 3, "rwm", True),
    DeviceRule("c", 1, 5, "rwm", True),
    DeviceRule("c", 1, 7, "rwm", True),
    DeviceRule("c", 1, 8, "rwm", True),
    DeviceRule("c", 1, 9, "rwm", True),
    DeviceRule("c", 5, 0, "rwm", True),
    DeviceRule("c", 5, 1, "rwm", True),
    DeviceRule("c", 5, 2, "rwm", True),
    DeviceRule("c", 136, ANY, "rwm", True),
)
"""Null, zero, full, random, urandom, tty, console, ptmx and terminals; the specification's default
devices. Nodes of every other device may be made and, without a rule, not opened."""

DENY_ALL = DeviceRule("a", ANY, ANY, "rwm", False)


def parse_rule(rule: Mapping[str, Any]) -> DeviceRule:
    """A rule of the configuration, checked; InvalidInput otherwise."""
    kind = {"": "a", "u": "c"}.get(rule.get("type") or "", rule.get("type") or "")
    given = rule["access"] if rule.get("access") is not None else "rwm"
    access = "".join(letter for letter in "rwm" if letter in given)
    numbers = []
    for key in ("major", "minor"):
        number = rule.get(key)
        number = ANY if number is None else number
        if not isinstance(number, int) or not ANY <= number <= _MAX:
            raise InvalidInput(f"device rule {rule!r:.200}: {key} is not a device number")
        numbers.append(number)
    if kind not in ("a", "b", "c") or not access or set(given) - set("rwm"):
        raise InvalidInput(
            f"device rule {rule!r:.200} is not allowed",
            hint="type is a, b or c; access is made of r, w and m",
        )
    if kind == "a" and (numbers != [ANY, ANY] or access != "rwm"):
        if numbers == [ANY, ANY]:
            raise InvalidInput(
                f"device rule {rule!r:.200}: a rule for all types is for all access",
                hint="write one rule for type b and one for type c",
            )
        raise InvalidInput(f"device rule {rule!r:.200}: numbers need the type b or c")
    return DeviceRule(kind, numbers[0], numbers[1], access, bool(rule.get("allow")))


def rules(given: Iterable[Mapping[str, Any]]) -> tuple[DeviceRule, ...]:
    """The whole list of a container: deny all, what was given, what every container may open."""
    return (DENY_ALL, *(parse_rule(rule) for rule in given), *DEFAULT_RULES)


@lru_cache(maxsize=64)
def v1_writes(listed: tuple[DeviceRule, ...]) -> tuple[tuple[str, str], ...]:
    """(file, value) rows that give the devices controller the meaning of `listed`, in order.

    Kept by content: most containers have the same list.

    Unsupported when a rule takes a part out of a wider one: the v1 list cannot say that.
    """
    allowed, exceptions = False, dict[tuple[str, int, int], set[str]]()
    for rule in listed:
        if rule.kind == "a":
            allowed = rule.allow
            exceptions.clear()
            continue
        key = (rule.kind, rule.major, rule.minor)
        if rule.allow != allowed:
            exceptions.setdefault(key, set()).update(rule.access)
            continue
        wider = _wider(rule, exceptions)
        if wider is not None:
            raise Unsupported(
                f"device rule '{rule}' makes a hole in '{wider[0]} {_number(wider[1])}:"
                f"{_number(wider[2])}', which cgroup v1 cannot express",
                hint="list the devices one by one, or use cgroup v2",
            )
        for other in [other for other in exceptions if _covers(key, other)]:
            exceptions[other] -= set(rule.access)
            if not exceptions[other]:
                del exceptions[other]
    rows = [("devices.allow" if allowed else "devices.deny", "a")]
    file = "devices.deny" if allowed else "devices.allow"
    for (kind, major, minor), access in exceptions.items():
        letters = "".join(letter for letter in "rwm" if letter in access)
        rows.append((file, str(DeviceRule(kind, major, minor, letters, not allowed))))
    return tuple(rows)


def _number(number: int) -> str:
    return "*" if number == ANY else str(number)


def _covers(wide: tuple[str, int, int], narrow: tuple[str, int, int]) -> bool:
    return wide[0] == narrow[0] and all(
        w in (ANY, n) for w, n in zip(wide[1:], narrow[1:], strict=True)
    )


def _overlap(one: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    return one[0] == other[0] and all(
        a == b or ANY in (a, b) for a, b in zip(one[1:], other[1:], strict=True)
    )


def _wider(
    rule: DeviceRule, exceptions: Mapping[tuple[str, int, int], set[str]]
) -> tuple[str, int, int] | None:
    """An exception of which `rule` takes a part away, but not the whole."""
    key = (rule.kind, rule.major, rule.minor)
    for other, access in exceptions.items():
        if _overlap(key, other) and not _covers(key, other) and access & set(rule.access):
            return other
    return None
