"""`WWW-Authenticate`: what registries send, and what hostile ones do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.registry.challenges import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            'Bearer realm="https://auth.example/token",service="registry.example",'
            'scope="repository:a/b:pull,push"',
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.example/token",
                        "service": "registry.example",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="a \\"quoted\\" one"', [Challenge("basic", {"realm": 'a "quoted" one'})]),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("Negotiate abc==", [Challenge("negotiate", {})]),
        (
            "Negotiate abc==, Basic realm=x , Bearer REALM = y",
            [
                Challenge("negotiate", {}),
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": "y"}),
            ],
        ),
        (
            "Negotiate, Basic realm=x",
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
        ),
        ("Basic realm=one, realm=two", [Challenge("basic", {"realm": "one"})]),
        (" , ,Basic realm=x,,", [Challenge("basic", {"realm": "x"})]),
        ("", []),
    ],
)
def test_parsed(header: str, found: list[Challenge]) -> None:
    assert parse_challenges([header]) == found


def test_several_lines_come_in_order() -> None:
    found = parse_challenges(["Basic realm=x", "Bearer realm=y"])
    assert [challenge.scheme for challenge in found] == ["basic", "bearer"]


@pytest.mark.parametrize(
    "header", ['Basic realm="open', "=", '"', "Basic realm=x y=z =", "Bearer \x00"]
)
def test_malformed(header: str) -> None:
    with pytest.raises(InvalidInput, match="WWW-Authenticate: malformed"):
        parse_challenges([header])


@pytest.mark.parametrize(
    "headers",
    [
        ["Basic realm=" + "x" * 17_000],
        ["Basic " + ", ".join(f"p{n}=v" for n in range(33))],
        ["Basic, " * 17],
        ["Basic"] * 17,
    ],
)
def test_limits(headers: list[str]) -> None:
    with pytest.raises(LimitExceeded):
        parse_challenges(headers)


@given(st.lists(st.text(alphabet='abB =,"\\\t;~/\x00é', max_size=60), max_size=3))
def test_any_text_parses_or_is_refused(headers: list[str]) -> None:
    try:
        found = parse_challenges(headers)
    except InvalidInput:
        return
    for challenge in found:
        assert challenge.scheme and challenge.scheme == challenge.scheme.lower()


_TOKENS = st.text(alphabet="abcXYZ019-_", min_size=1, max_size=12)


@given(
    _TOKENS,
    st.dictionaries(
        _TOKENS.map(str.lower), st.text(alphabet='ab "\\,=/:', max_size=20), min_size=1
    ),
)
def test_what_is_quoted_comes_back(scheme: str, parameters: dict[str, str]) -> None:
    quoted = (
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in parameters.items()
    )
    header = f"{scheme} {', '.join(quoted)}"
    if len(parameters) <= 32:
        assert parse_challenges([header]) == [Challenge(scheme.lower(), parameters)]
