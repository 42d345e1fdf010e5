"""The list of containers as JSON. A container's line is written once and kept, together with all
that it was made of: a list of hundreds costs a comparison each, whoever changed what. The time in
`Status` alone moves on by itself, so it is put between two kept pieces.
"""

import sys
import time
from collections.abc import Iterable

from skerry.api import container_shapes
from skerry.api.call import encode
from skerry.engine.container import Container
from skerry.engine.endpoints import Endpoints
from skerry.engine.filters import health_of
from skerry.engine.networks import Networks


def lines(
    containers: Iterable[Container],
    networks: Networks,
    endpoints: Endpoints,
    now: float | None = None,
) -> bytes:
    """The body of `GET /containers/json`, without sizes."""
    # Interned, so that each line compares an address.
    known = sys.intern(" ".join(each.id for each in networks.all()))
    now = time.time() if now is None else now
    return b"[%b]" % b",".join(_line(each, now, known, networks, endpoints) for each in containers)


class Line:
    """What was last written of a container."""

    __slots__ = ("after", "before", "made_of", "text", "text_of")

    def __init__(self, made_of: object, before: bytes, after: bytes) -> None:
        self.made_of = made_of
        self.before, self.after = before, after
        """The line up to the value of `Status`, and from there on."""
        self.text_of: object = None
        """What `text`, the whole line, has of the state and the time."""
        self.text = b""


def _line(
    container: Container, now: float, known: str, networks: Networks, endpoints: Endpoints
) -> bytes:
    record, state = container.record, container.state
    made_of = (
        record.name,
        container.removing or state.status,
        endpoints.sandbox(record.id),
        known,
        encode(record.network) if record.network else None,
        [point.source for point in record.mounts] if record.mounts else None,
    )
    kept: Line | None = container.listed
    if kept is None or kept.made_of != made_of:
        kept = container.listed = _written(made_of, container, networks, endpoints)
    age = int(now - (state.started_at if container.running else state.finished_at) / 1e9)
    text_of = (
        # Every form of a duration over a minute changes at full minutes only.
        age if age < 60 else age // 60 + 60,
        state.exit_code,
        health_of(container),
    )
    if kept.text_of != text_of:
        status = encode(container_shapes.status_text(container, now))
        kept.text_of, kept.text = text_of, b"".join((kept.before, status, kept.after))
    return kept.text


def _written(
    made_of: object, container: Container, networks: Networks, endpoints: Endpoints
) -> Line:
    items = list(container_shapes.summary(container, networks, endpoints).items())
    at = next(number for number, (name, _) in enumerate(items) if name == "Status")
    before, after = encode(dict(items[:at])), encode(dict(items[at + 1 :]))
    return Line(made_of, before[:-1] + b',"Status":', b"," + after[1:])
