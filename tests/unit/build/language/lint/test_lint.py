"""Every rule: its bad example breaks it once, its good one breaks none; and what chooses rules."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import SkerryError
from skerry.build.language.lint import RULES, Rule, Surroundings, Warned, lint, manual, violation
from skerry.build.language.parser import KEYWORDS, parse

AROUND = Surroundings(
    ignored=lambda path: path == "ignored",
    foreign={"foreign:1": ("linux/arm64", "linux/amd64")},
)


def warnings(text: str, around: Surroundings = AROUND) -> list[Warned]:
    return lint(parse(text.encode()), around)


def names(text: str, around: Surroundings = AROUND) -> list[str]:
    return [each.rule for each in warnings(text, around)]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_examples(rule: Rule) -> None:
    assert names(rule.bad) == [rule.name]
    assert names(rule.good) == []


def test_the_manual_is_made_of_the_rules() -> None:
    page = Path(__file__).parents[5] / "docs" / "build-lint.md"
    assert page.read_text() == manual.manual()


def test_a_warning_shows_its_place() -> None:
    (warned,) = warnings("FROM alpine:3.20\nCMD sleep 1\n")
    assert warned.span.line == 2
    assert ">>> CMD sleep 1" in warned.excerpt
    assert warned.text == (
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals"
    )


@pytest.mark.parametrize(
    ("check", "left"),
    [
        ("skip=all", []),
        ("skip=JSONArgsRecommended", ["WorkdirRelativePath"]),
        ("skip=jsonargsrecommended, WorkdirRelativePath", []),
        ("error=true", ["WorkdirRelativePath", "JSONArgsRecommended"]),
    ],
)
def test_skip(check: str, left: list[str]) -> None:
    assert names(f"# check={check}\nFROM alpine:3.20\nWORKDIR a\nCMD sleep 1\n") == left


def test_error_makes_a_violation() -> None:
    file = parse(b"# check=skip=WorkdirRelativePath;error=true\nFROM a:1\nCMD x\n")
    fault = violation(file, lint(file))
    assert fault is not None
    assert "lint violation found for rules: JSONArgsRecommended" in fault.message
    assert violation(parse(b"FROM a:1\nCMD x\n"), lint(file)) is None
    own = parse(b"# check=error=true\nFROM a\n")
    assert [each.rule for each in lint(own)] == ["BaseImageLatest"]
    assert violation(own, lint(own)) is None


@pytest.mark.parametrize(
    "text",
    [
        'FROM a:1\nSHELL ["bash", "-c"]\nCMD sleep 1',
        'FROM a:1 AS x\nSHELL ["bash", "-c"]\nFROM x\nCMD sleep 1',
        "FROM a:1 AS x\nWORKDIR /a\nFROM x\nWORKDIR b",
        "FROM --platform=linux/amd64 a:1 AS tool-amd64",
        "FROM a:1 AS x\nFROM x",
        "FROM a:1\nENV PUBLIC_KEY=1 KEYBOARD=2 DB_PASSWORD_FILE=/run/secrets/db",
        "FROM a:1\nRUN --mount=type=cache,target=/var/lib/apt apt-get update",
        "FROM a:1\nRUN --mount=type=cache,target=/root/.cache pip install flask",
        "FROM a:1\nENV PIP_NO_CACHE_DIR=1\nRUN pip3 install flask",
        "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH",
        "FROM scratch AS x\nENV a=1\nFROM x\nLABEL a=$a path=$PATH",
        "FROM scratch\nCOPY --from=a:1 ignored /",
        "FROM a@sha256:" + "0" * 64,
        "ARG base=a:1\nFROM $base",
        "FROM a:1\nRUN curl https://$USER:$PASS@example.org",
    ],
)
def test_no_false_alarm(text: str) -> None:
    assert names(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a:1\nRUN <<END\napt-get update\napt-get -y install x\nEND", "AptWithoutCleanup"),
        ("FROM a:1\nRUN python3 -m pip install x", "PipCacheKept"),
        ("FROM a:1\nENV K=AKIAABCDEFGHIJKLMNOP", "SecretInText"),
        ("FROM localhost:5000/a", "BaseImageLatest"),
        ("FROM a:latest", "BaseImageLatest"),
        ("FROM scratch\nADD ignored /", "CopyIgnoredFile"),
        ("FROM scratch\nLABEL arch=$TARGETARCH", "UndefinedVar"),
        ("from a:1\nrun true\nRUN true", "ConsistentInstructionCasing"),
    ],
)
def test_further_cases(text: str, expected: str) -> None:
    assert names(text) == [expected]


def test_an_unknown_base_gives_doubt_only_to_near_names() -> None:
    text = "FROM a:1\nARG version\nLABEL a=$JAVA_HOME b=$verson"
    assert [each.text for each in warnings(text)] == [
        "Usage of undefined variable '$verson' (did you mean $version?)"
    ]
    known = Surroundings(environments={"a:1": ["PATH"]})
    assert names(text, known) == ["UndefinedVar", "UndefinedVar"]
    assert (
        names("FROM a:1\nLABEL a=$JAVA_HOME", Surroundings(environments={"a:1": ["JAVA_HOME"]}))
        == []
    )


PIECES = st.sampled_from(
    [*KEYWORDS, "from", "$a", "${b:-c}", "a:1", "AS", "\\\n", "\n", " ", "=", "[", '"x"', "]",
     "<<E", "# check=error=true", "apt-get install", "--platform=x", "http://a:b@c", "$"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40))
def test_nothing_that_can_be_parsed_breaks_it(pieces: list[str]) -> None:
    try:
        file = parse(("FROM a\n" + " ".join(pieces)).encode())
    except SkerryError:
        return
    for warned in lint(file, AROUND):
        assert warned.rule in RULES
        assert 1 <= warned.span.line <= len(file.lines)
