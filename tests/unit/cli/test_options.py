"""Option tables and Docker's forms of options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.cli.options import (
    Command,
    Option,
    Parsed,
    UsageError,
    check_count,
    many,
    number,
    parse,
    switch,
    text,
)
from skerry.cli.registry import every

TABLE = (
    switch("interactive", "", "i"),
    switch("tty", "", "t"),
    text("name", "", "NAME", "n"),
    many("env", "", "E", "e"),
    number("last", "", "N", "l"),
)


@pytest.mark.parametrize(
    "words",
    [
        ["-it", "--name", "x", "-e", "A=1", "--env=B=2", "-l", "3"],
        ["-i", "-t", "--name=x", "-eA=1", "-e=B=2", "-l3"],
        ["-itn", "x", "-e", "A=1", "-e", "B=2", "--last=0x3"],
        ["--interactive=true", "--tty=1", "-nx", "--env", "A=1", "--env", "B=2", "--last", "3"],
    ],
)
def test_all_forms_mean_the_same(words: list[str]) -> None:
    parsed = parse(TABLE, words)
    assert parsed.on("interactive")
    assert parsed.on("tty")
    assert parsed.text("name") == "x"
    assert parsed.many("env") == ["A=1", "B=2"]
    assert parsed.number("last") == 3
    assert parsed.given == {"interactive", "tty", "name", "env", "last"}


def test_switches_can_be_off() -> None:
    parsed = parse(TABLE, ["--tty=false", "-i=f"])
    assert not parsed.on("tty", True)
    assert not parsed.on("interactive", True)
    assert parse(TABLE, []).on("tty", True)


def test_the_first_argument_ends_the_options_of_a_program() -> None:
    parsed = parse(TABLE, ["-i", "busybox", "ls", "-t", "--name"], intermixed=False)
    assert parsed.arguments == ["busybox", "ls", "-t", "--name"]
    assert not parsed.on("tty")


def test_elsewhere_options_may_follow_arguments() -> None:
    parsed = parse(TABLE, ["a", "-t", "b", "--", "-i"])
    assert parsed.arguments == ["a", "b", "-i"]
    assert parsed.on("tty")
    assert not parsed.on("interactive")


def test_a_dash_is_an_argument() -> None:
    assert parse(TABLE, ["-"]).arguments == ["-"]


def test_the_last_text_counts_and_a_value_may_look_like_an_option() -> None:
    parsed = parse(TABLE, ["--name", "a", "--name", "--tty"])
    assert parsed.text("name") == "--tty"
    assert not parsed.on("tty")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-iz"], "unknown shorthand flag: 'z' in -iz"),
        (["--name"], "flag needs an argument: --name"),
        (["-in"], "flag needs an argument: 'n' in -in"),
        (["--tty=maybe"], 'invalid argument "maybe" for "-t, --tty" flag'),
        (["-l", "three"], 'invalid argument "three" for "-l, --last" flag'),
        (["-l", "9" * 400], "invalid argument"),
    ],
)
def test_wrong_command_lines_have_dockers_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(TABLE, words)
    assert message in caught.value.message
    assert caught.value.exit_code == 125


def test_help_is_understood_everywhere_and_h_unless_taken() -> None:
    assert parse(TABLE, ["--help"]).on("help")
    assert parse(TABLE, ["-h"]).on("help")
    assert parse((text("hostname", "", "NAME", "h"),), ["-h", "x"]).text("hostname") == "x"


@pytest.mark.parametrize(
    ("least", "most", "have", "message"),
    [
        (1, 1, 0, "'skerry x' requires 1 argument"),
        (2, 2, 3, "'skerry x' requires 2 arguments"),
        (1, None, 0, "'skerry x' requires at least 1 argument"),
        (0, 0, 1, "'skerry x' accepts no arguments"),
        (0, 1, 2, "'skerry x' requires at most 1 argument"),
    ],
)
def test_counts_of_arguments(least: int, most: int | None, have: int, message: str) -> None:
    command = Command(lambda *_: 0, "", least=least, most=most)
    parsed = Parsed()
    parsed.arguments = ["a"] * have
    with pytest.raises(UsageError, match=message) as caught:
        check_count("x", command, parsed)
    assert caught.value.exit_code == 1


def test_tables_are_sound() -> None:
    for path, command in every():
        longs = [option.long for option in command.options]
        shorts = [option.short for option in command.options if option.short]
        assert len(set(longs)) == len(longs), path
        assert len(set(shorts)) == len(shorts), path
        assert command.summary, path
        assert all((option.help and option.help[0].isupper()) or option.long == "restart"
                   or option.long in ("security-opt",) or option.long in ("format", "progress",
                   "type") for option in command.options), path  # fmt: skip
        assert all((option.kind == "switch") == (not option.metavar) for option in command.options)


@given(st.lists(st.text(max_size=8), max_size=6), st.booleans())
def test_any_words_are_sorted_or_refused(words: list[str], intermixed: bool) -> None:
    try:
        parsed = parse(TABLE, words, intermixed=intermixed)
    except UsageError as error:
        assert error.message
    else:
        assert set(parsed.arguments) <= set(words)


def test_an_option_shows_as_messages_name_it() -> None:
    assert Option("text", "name", "n", "", "N", "").shown == "-n, --name"
    assert Option("text", "name", "", "", "N", "").shown == "--name"
