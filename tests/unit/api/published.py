"""Makes endpoints.txt out of moby's published documents.

    python tests/unit/api/published.py DOCS >tests/unit/api/endpoints.txt

DOCS is `docs/api` of moby's sources, as in Debian's source package docker.io 28.5:
v1.24.md, whose operations are headings, and the OpenAPI documents v1.25.yaml to v1.50.yaml.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

MINORS = range(24, 51)
METHODS = ("get", "head", "post", "put", "delete", "patch", "options")
UNPUBLISHED = """\
1.24 1.24 POST   /containers/{id}/copy
1.25 -    GET    /containers/{id}/checkpoints
1.25 -    POST   /containers/{id}/checkpoints
1.25 -    DELETE /containers/{id}/checkpoints/{checkpoint}
1.39 -    POST   /build/cancel
1.39 -    POST   /grpc
1.24 -    GET    /debug/vars
1.24 -    GET    /debug/pprof/
1.24 -    GET    /debug/pprof/cmdline
1.24 -    GET    /debug/pprof/profile
1.24 -    GET    /debug/pprof/symbol
1.24 -    GET    /debug/pprof/trace
1.24 -    GET    /debug/pprof/{name}
1.24 -    OPTIONS /{path}
"""
"""What moby's routers have and its documents do not."""


def operations(docs: Path, minor: int) -> list[tuple[str, str]]:
    """Methods and paths of one version's document."""
    if minor == 24:
        text = (docs / "v1.24.md").read_text()
        found = re.findall(r"^`(GET|HEAD|POST|PUT|DELETE) (?:/v1\.24)?(/[^`?]*)", text, re.M)
        # `(id or name)` and one example in place of a pattern.
        tidy = [(a, re.sub(r"\([^)]*\)", "{}", b.removesuffix(" HTTP/1.1"))) for a, b in found]
        return [(a, b.replace("tiborvass/{}", "{}")) for a, b in tidy]
    text = (docs / f"v1.{minor}.yaml").read_text()
    paths = re.split(r"^paths:$", text, flags=re.M)[1]
    found = []
    path = ""
    for line in re.split(r"^\S", paths, maxsplit=1, flags=re.M)[0].splitlines():
        if match := re.fullmatch(r'  "?(/[^":]*)"?:', line):
            path = match[1]
        elif match := re.fullmatch(r"    (\w+):", line):
            found += [(match[1].upper(), path)] if match[1] in METHODS else []
    return found


def table(docs: Path) -> Iterator[str]:
    """The lines of endpoints.txt."""
    seen: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for minor in MINORS:
        for method, path in operations(docs, minor):
            seen[method, re.sub(r"\{\w*\}", "{}", path)][minor] = path
    yield "# Every operation of Docker's Engine API, versions 1.24 to 1.50. Made by published.py."
    yield "# Since, until (- for still there), method, path."
    for (method, _), minors in sorted(seen.items(), key=lambda each: (each[0][1], each[0][0])):
        first, last = min(minors), max(minors)
        assert len(minors) == last - first + 1, f"{method} {minors[last]} came and went"
        until = "-" if last == MINORS[-1] else f"1.{last}"
        path = minors[last].replace("{}", "{name}")
        yield f"1.{first} {until:4} {method:6} {path}"
    yield "# Served by dockerd without being in a document."
    yield from UNPUBLISHED.splitlines()


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table(Path(sys.argv[1])))
