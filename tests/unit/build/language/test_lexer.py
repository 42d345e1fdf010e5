"""Words: quotes, escapes, variables, and hostile text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.build.language.faults import DockerfileFault
from skerry.build.language.lexer import MAX_DEPTH, Lexer

KNOWN = {"a": "vallal", "empty": "", "path": "/usr/local/lib", "two": "x y"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("$a", "vallal"),
        ("${a}b", "vallalb"),
        ("$ab", ""),
        ("'$a'", "$a"),
        ('"$a"', "vallal"),
        (r"\$a", "$a"),
        (r'"\$a"', "$a"),
        (r'"\x"', r"\x"),
        (r"\x", "x"),
        ("a'b c'd", "ab cd"),
        ("$", "$"),
        ("$-x", "x"),
        ("${none:-word}", "word"),
        ("${none-word}", "word"),
        ("${empty:-word}", "word"),
        ("${empty-word}", ""),
        ("${none:-$a}", "vallal"),
        ("${none:-'}'}", "}"),
        ("${a:+yes}", "yes"),
        ("${none:+yes}", ""),
        ("${empty+yes}", "yes"),
        ("${empty:+yes}", ""),
        ("${a:?no}", "vallal"),
        ("${a#v*l}", "lal"),
        ("${a##v*l}", ""),
        ("${a%l*}", "valla"),
        ("${a%%l*}", "va"),
        ("${path#*/}", "usr/local/lib"),
        ("${path##*/}", "lib"),
        ("${path%/*}", "/usr/local"),
        ("${path%%/*}", ""),
        ("${path#x}", "/usr/local/lib"),
        ("${a/l/L}", "vaLlal"),
        ("${a//l/L}", "vaLLaL"),
        ("${a/?a/}", "llal"),
        ("${path//\\//.}", ".usr.local.lib"),
        ("${none#x}", ""),
    ],
)
def test_a_word_is_expanded(text: str, wanted: str) -> None:
    assert Lexer().word(text, KNOWN) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a b", ("a", "b")),
        ("a 'b c'", ("a", "b c")),
        ("$two", ("x", "y")),
        ('"$two"', ("x y",)),
        ("a$two", ("ax", "y")),
        ("''", ("",)),
        ("", ()),
        ("  a  ", ("a",)),
        (r"a\ b", ("a b",)),
    ],
)
def test_words_are_split_as_a_shell_does(text: str, wanted: tuple[str, ...]) -> None:
    assert Lexer().words(text, KNOWN) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("'open", "single-quote"),
        ('"open', "double-quote"),
        ("${a", "missing '}'"),
        ("${", "missing '}'"),
        ("${}", "bad substitution"),
        ("${a;x}", "unsupported modifier (;)"),
        ("${a:x}", "unsupported modifier (:x)"),
        ("${a:#x}", "unsupported modifier (:#)"),
        ("${none?}", "none: is not allowed to be unset"),
        ("${none?say why}", "none: say why"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${a/x}", "missing"),
        ("${a#x\\}", "missing"),
    ],
)
def test_what_cannot_be_meant_is_told(text: str, reason: str) -> None:
    with pytest.raises(DockerfileFault) as caught:
        Lexer().word(text, KNOWN)
    assert reason in caught.value.reason


def test_unset_variables_are_reported() -> None:
    found = Lexer().expand("$a $none ${other:-x}", KNOWN)
    assert found.used == {"a", "none", "other"}
    assert found.unset == {"none"}


def test_a_backtick_can_be_the_escape_character() -> None:
    assert Lexer("`").word(r"c:\dir`$a", KNOWN) == r"c:\dir$a"


def test_nesting_is_limited() -> None:
    deep = "${x:-" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1)
    with pytest.raises(DockerfileFault, match="nested deeper"):
        Lexer().word(deep, {})


def test_growth_is_limited() -> None:
    with pytest.raises(DockerfileFault, match="expands to more"):
        Lexer().word("$a" * 5000, {"a": "x" * 2000})


def test_a_costly_pattern_is_refused_or_quick() -> None:
    hostile = "${a#" + "*a" * 50 + "b}"
    assert Lexer().word(hostile, {"a": "a" * 5000}) == "a" * 5000
    with pytest.raises(DockerfileFault, match="too long"):
        Lexer().word("${a//" + "*a" * 50 + "b/}", {"a": "a" * 5000})


@given(st.text(alphabet="ab$ {}:-+?#%/'\"\\*", max_size=40))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    for lexer in (Lexer(), Lexer("`"), Lexer(keep_unset=True, keep_quotes=True, keep_escapes=True)):
        try:
            found = lexer.expand(text, {"a": "x", "b": "y z"}, split=True)
        except DockerfileFault:
            continue
        assert all(isinstance(word, str) for word in found.words)


@given(st.text(alphabet=st.characters(exclude_characters="$'\"\\"), max_size=60))
def test_text_without_special_characters_stays_as_it_is(text: str) -> None:
    assert Lexer().word(text, {}) == text
