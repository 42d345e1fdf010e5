"""Shell patterns against a plain oracle."""

import fnmatch
import re

from hypothesis import given
from hypothesis import strategies as st

from skerry.build.language.patterns import Pattern

PATTERNS = st.text(alphabet="ab*?", max_size=6)
TEXTS = st.text(alphabet="abc", max_size=8)


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(fnmatch.translate(pattern), text) is not None


@given(PATTERNS, TEXTS)
def test_prefixes_are_the_shortest_and_the_longest_that_match(pattern: str, text: str) -> None:
    ends = [end for end in range(len(text) + 1) if matches(pattern, text[:end])]
    made = Pattern(pattern)
    assert made.without_prefix(text, longest=False) == (text[ends[0] :] if ends else text)
    assert made.without_prefix(text, longest=True) == (text[ends[-1] :] if ends else text)


@given(PATTERNS, TEXTS)
def test_suffixes_are_the_shortest_and_the_longest_that_match(pattern: str, text: str) -> None:
    starts = [start for start in range(len(text) + 1) if matches(pattern, text[start:])]
    made = Pattern(pattern)
    assert made.without_suffix(text, longest=False) == (text[: starts[-1]] if starts else text)
    assert made.without_suffix(text, longest=True) == (text[: starts[0]] if starts else text)


@given(st.text(alphabet="ab", min_size=1, max_size=3), TEXTS)
def test_a_pattern_without_wildcards_replaces_as_text_does(pattern: str, text: str) -> None:
    made = Pattern(pattern)
    assert made.replace(text, "X", every=True) == text.replace(pattern, "X")
    assert made.replace(text, "X", every=False) == text.replace(pattern, "X", 1)
