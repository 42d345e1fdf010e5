"""The policy file: which images may be pulled, by whom they must be signed.

    {
      "version": 1,
      "default": {"rule": "reject"},
      "scopes": {
        "docker.io/library": {"rule": "accept"},
        "registry.example/team": {"rule": "signedBy", "keys": ["team.pub"], "threshold": 1},
        "*.example.org": {"rule": "reject"}
      }
    }

A scope is a registry, or a registry and the beginning of a repository in whole parts; the longest
that fits decides, `*.domain` after the exact ones. Without a `default` what no scope names is
rejected. Unknown words are errors: a typing mistake must not open a door.
"""

import os
from typing import Final, Literal, NamedTuple

import msgspec

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.references import Reference, parse_reference

MAX_POLICY: Final = 1 << 20
MAX_SCOPES: Final = 4096
MAX_KEYS: Final = 32


class Rule(NamedTuple):
    """What one scope says. `scope` is empty for the default."""

    scope: str
    verdict: Literal["accept", "reject", "signedBy"]
    keys: tuple[str, ...] = ()
    """Absolute paths of public keys."""
    threshold: int = 1
    """How many of the keys have to have signed."""

    @property
    def shown(self) -> str:
        """As messages name it."""
        return f"scope {self.scope}" if self.scope else "default"


class Policy(NamedTuple):
    """A parsed file."""

    path: str
    default: Rule
    scopes: dict[str, Rule]

    def rule(self, reference: Reference) -> Rule:
        """The rule that decides on a reference."""
        name = reference.name
        while name:
            if found := self.scopes.get(name):
                return found
            name = name.rpartition("/")[0]
        domain = reference.registry.partition(":")[0]
        while "." in domain:
            domain = domain.partition(".")[2]
            if found := self.scopes.get(f"*.{domain}"):
                return found
        return self.default


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    rule: Literal["accept", "reject", "signedBy"]
    keys: list[str] = []
    threshold: int = 1


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    default: _Rule | None = None
    scopes: dict[str, _Rule] = {}


def parse_policy(data: bytes, path: str) -> Policy:
    """InvalidInput or LimitExceeded names the file and the scope. Key paths that are not absolute
    are taken from the file's folder."""
    if len(data) > MAX_POLICY:
        raise LimitExceeded(f"{path}: larger than {MAX_POLICY} bytes")
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path}: {error!s:.200}") from None
    if len(file.scopes) > MAX_SCOPES:
        raise LimitExceeded(f"{path}: more than {MAX_SCOPES} scopes")
    default = _rule(file.default or _Rule("reject"), "", path)
    scopes = {}
    for scope, rule in file.scopes.items():
        _check_scope(scope, path)
        scopes[scope] = _rule(rule, scope, path)
    return Policy(path, default, scopes)


def _rule(rule: _Rule, scope: str, path: str) -> Rule:
    what = f"{path}: {f'scope {scope!r:.120}' if scope else 'default'}"
    if rule.rule != "signedBy":
        if rule.keys or rule.threshold != 1:
            raise InvalidInput(f"{what}: only signedBy takes keys and a threshold")
        return Rule(scope, rule.rule)
    if not rule.keys:
        raise InvalidInput(f"{what}: signedBy needs keys")
    if len(rule.keys) > MAX_KEYS:
        raise LimitExceeded(f"{what}: more than {MAX_KEYS} keys")
    if not 1 <= rule.threshold <= len(set(rule.keys)):
        raise InvalidInput(f"{what}: threshold {rule.threshold} with {len(set(rule.keys))} keys")
    if any(not key or "\0" in key for key in rule.keys):
        raise InvalidInput(f"{what}: not the path of a key")
    folder = os.path.dirname(path)
    keys = tuple(dict.fromkeys(os.path.join(folder, key) for key in rule.keys))
    return Rule(scope, rule.rule, keys, rule.threshold)


def _check_scope(scope: str, path: str) -> None:
    # Only in full, so that nothing is taken for a repository of Docker Hub by mistake.
    wildcard = scope.startswith("*.")
    whole = (f"any{scope[1:]}" if wildcard else scope) + "/x/y"
    try:
        parsed = parse_reference(whole, default_tag="")
        good = parsed.name == whole and not parsed.tag and not parsed.digest
    except InvalidInput:
        good = False
    if not good or (wildcard and ("/" in scope or ":" in scope)):
        raise InvalidInput(
            f"{path}: scope {scope!r:.120} is no registry or repository",
            hint="write it in full, without a tag: docker.io/library/debian, *.example.org",
        )
