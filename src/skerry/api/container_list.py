"""The list of containers as JSON. A container's line is written once and kept, together with all
that it was made of: a list of hundreds costs a comparison each, whoever changed what.
"""

from collections.abc import Iterable

from skerry.api import container_shapes
from skerry.api.call import encode
from skerry.engine.container import Container
from skerry.engine.endpoints import Endpoints
from skerry.engine.networks import Networks


def lines(containers: Iterable[Container], networks: Networks, endpoints: Endpoints) -> bytes:
    """The body of `GET /containers/json`, without sizes."""
    known = tuple(each.id for each in networks.all())
    return b"[%b]" % b",".join(_line(each, known, networks, endpoints) for each in containers)


def _line(
    container: Container, known: tuple[str, ...], networks: Networks, endpoints: Endpoints
) -> bytes:
    record = container.record
    made_of = (
        record.name,
        container_shapes.status_word(container),
        container_shapes.status_text(container),
        endpoints.sandbox(container.id),
        known,
        encode(record.network),
        [point.source for point in record.mounts],
    )
    kept = container.listed
    if kept is None or kept[0] != made_of:
        text = encode(container_shapes.summary(container, networks, endpoints))
        kept = container.listed = (made_of, text)
    return kept[1]
