""".dockerignore: Docker's rules."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.base.ignore import MAX_BYTES, _translate, compile_rules, read


@pytest.mark.parametrize(
    ("patterns", "path", "out"),
    [
        (["a"], "a", True),
        (["a"], "a/b", True),
        (["a"], "b/a", False),
        (["/a/"], "a/b", True),
        (["*.o"], "x.o", True),
        (["*.o"], "d/x.o", False),
        (["**/*.o"], "d/e/x.o", True),
        (["**/*.o"], "x.o", True),
        (["*/temp*"], "d/temporary", True),
        (["*/temp*"], "d/e/temporary", False),
        (["**"], "a/b", True),
        (["a/**"], "a", False),
        (["a/**"], "a/b/c", True),
        (["a/**/z"], "a/z", True),
        (["a/**/z"], "a/b/c/z", True),
        (["temp?"], "tempa", True),
        (["temp?"], "temp/a", False),
        (["*", "!a"], "a", False),
        (["*", "!a"], "b", True),
        (["d", "!d/a"], "d/a", False),
        (["d", "!d/a"], "d/b", True),
        (["!a", "a"], "a", True),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*.md", "!README*.md", "README-secret.md"], "README.md", False),
        (["[a-c]x"], "bx", True),
        (["[^a-c]x"], "bx", False),
        (["[^a-c]x"], "dx", True),
        ([r"a\*"], "a*", True),
        ([r"a\*"], "ab", False),
        (["a.b"], "axb", False),
        (["./a/../b"], "b", True),
        (["a\nb"], "a\nb", True),
    ],
)
def test_a_path_is_in_or_out(patterns: list[str], path: str, out: bool) -> None:
    assert (
        compile_rules(
            read("\n".join(patterns).encode()) if "\n" not in patterns[0] else patterns
        ).excluded(path)
        is out
    )


def test_comments_empty_lines_and_spaces_are_passed_over() -> None:
    data = b"\xef\xbb\xbf# no\n\n  a  \r\n ! b \n #c\n/\n"
    assert read(data) == ["a", "!b", "#c", "/"]


def test_a_directory_is_pruned_unless_an_exception_lies_below() -> None:
    found = compile_rules(["d", "e", "!d/x/*.md"])
    assert found.prunable("e")
    assert not found.prunable("d")
    assert not found.prunable("d/x")
    assert found.prunable("d/y")
    assert not compile_rules(["d", "!**/x"]).prunable("d")


@pytest.mark.parametrize("pattern", ["[", "[a", "[]a", "a\\", "!", "[b-a]"])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        compile_rules([pattern])


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        read(b"a" * (MAX_BYTES + 1))


PARTS = st.lists(st.sampled_from(["a", "b", "*", "**", "?", "a*", "!a"]), min_size=1, max_size=4)


@given(
    st.lists(PARTS.map("/".join), max_size=4),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4),
)
def test_nothing_below_a_pruned_directory_would_have_come_in(
    patterns: list[str], parts: list[str]
) -> None:
    found = compile_rules(patterns)
    path = "/".join(parts)
    for end in range(1, len(parts)):
        above = "/".join(parts[:end])
        if found.excluded(above, True) and found.prunable(above):
            assert found.excluded(path)


@given(st.binary(max_size=80))
def test_any_bytes_are_rules_or_refused(data: bytes) -> None:
    try:
        compile_rules(read(data)).excluded("a/b")
    except InvalidInput:
        return


TOKENS = st.lists(st.sampled_from(["a", "b", "/", "*", "**/", "**", "?"]), max_size=7).map("".join)


def oracle(pattern: str) -> re.Pattern[str]:
    """As moby's patternmatcher builds it, without a thought for the time it takes."""
    text = re.sub(r"\*\*+/?$", "\0", pattern)
    text = re.sub(r"\*\*+/?", "\1", text).replace("*", "[^/]*").replace("?", "[^/]")
    return re.compile(text.replace("\0", ".*").replace("\1", "(?:.*/)?"), re.DOTALL)


@given(TOKENS, st.text(alphabet="ab/", max_size=8))
def test_patterns_match_what_plain_regular_expressions_would(pattern: str, path: str) -> None:
    wanted = oracle(pattern).fullmatch(path) is not None
    assert (_translate(pattern).fullmatch(path) is not None) is wanted


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "**/a" * 20 + "b", "**a" * 20 + "b"])
def test_a_hostile_pattern_is_quick(pattern: str) -> None:
    assert not compile_rules([pattern]).excluded("a/" * 100 + "a" * 200)
