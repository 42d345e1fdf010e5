"""`--chown`: names are looked up in the files of the root that is written."""

from skerry.base.errors import InvalidInput
from skerry.engine.facts import lookup_user


def owner_of(root: int, text: str) -> tuple[int, int]:
    """Numbers of `user[:group]`. A number without a group is its own group, a name without one has
    its primary group. InvalidInput in Docker's words."""
    user, colon, group = text.partition(":")
    if not user and not group:
        raise InvalidInput(f"invalid chown string: {text!r:.80}")
    found = lookup_user(root, f"{user or '0'}:{group}" if colon and group else user)
    if not group and user.isdigit():
        return found.uid, found.uid
    return found.uid, found.gid
