"""References: Docker's grammar, defaults, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.base.references import Reference, parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
        ("example.org/app", "example.org/app:latest", "example.org/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}", f"app@{DIGEST}"),
        (f"app:v1@{DIGEST}", f"docker.io/library/app:v1@{DIGEST}", f"app:v1@{DIGEST}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest", "a__b/c-d.e:latest"),
        ("a---b", "docker.io/library/a---b:latest", "a---b:latest"),
    ],
)
def test_forms(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert parse_reference(str(reference)) == reference
    assert parse_reference(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":tag",
        "a b",
        "a/",
        "/a",
        "a//b",
        "-a",
        "a..b",
        "a_",
        "a___b",
        "a:-tag",
        "a:" + "t" * 129,
        "a@sha256:short",
        "a@" + DIGEST.upper(),
        "a@",
        "../../etc/passwd",
        "exa mple.org/a",
        "http://example.org/a",
        "a\n",
        "a:tag\n",
        "a" * 256,
        "a" * 5000,
        "é",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"invalid reference format|not a digest"):
        parse_reference(text)


def test_capitals_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"repository name \(App\) must be lowercase"):
        parse_reference("App")


def test_default_tag() -> None:
    assert parse_reference("a", default_tag="").tag == ""
    assert parse_reference(f"a@{DIGEST}").tag == ""


COMPONENT = st.from_regex(r"\A[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+){0,2}\Z")


@given(
    registry=st.sampled_from(["docker.io", "localhost", "localhost:5000", "example.org", "h:80"]),
    parts=st.lists(COMPONENT, min_size=1, max_size=4),
    tag=st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z"),
    digest=st.sampled_from(["", DIGEST]),
)
def test_what_is_written_is_read_back(
    registry: str, parts: list[str], tag: str, digest: str
) -> None:
    if registry == "docker.io" and len(parts) == 1:
        parts = ["library", *parts]
    reference = Reference(registry, "/".join(parts), tag, digest)
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidInput:
        return
    assert parse_reference(str(reference)) == reference
    assert "/../" not in f"/{reference.name}/"
