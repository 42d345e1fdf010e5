import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import CommandFailed, Conflict, InvalidInput, OutputExceeded, Unavailable
from skerry.sdk import sandbox_words
from skerry.sdk.frames import STDERR, STDOUT
from skerry.sdk.sandbox_words import Lines, Output, Result, Wanted


@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=20))
def test_lines_do_not_depend_on_the_pieces(data: bytes, sizes: list[int]) -> None:
    lines, found, rest = Lines(), [], data
    for size in [*sizes, len(data) or 1]:
        found += lines.feed(STDOUT, rest[:size])
        rest = rest[size:]
    found += lines.end()
    whole = data.split(b"\n")
    wanted = [line.decode(errors="replace").removesuffix("\r") for line in whole]
    assert found == [(STDOUT, each) for each in (wanted if whole[-1] else wanted[:-1])]


def test_streams_have_lines_of_their_own_and_long_ones_come_in_pieces() -> None:
    lines = Lines()
    assert lines.feed(STDOUT, b"one\ntw") == [(STDOUT, "one")]
    assert lines.feed(STDERR, b"err\r\n") == [(STDERR, "err")]
    assert lines.feed(STDOUT, b"o\n") == [(STDOUT, "two")]
    assert lines.feed(STDOUT, b"x" * sandbox_words.LONGEST_LINE) == [
        (STDOUT, "x" * sandbox_words.LONGEST_LINE)
    ]
    assert lines.end() == []


def test_output_is_kept_up_to_its_limit() -> None:
    output = Output(5)
    output.add(STDOUT, b"abc")
    output.add(STDERR, b"de")
    with pytest.raises(OutputExceeded, match="more than 5 bytes"):
        output.add(STDOUT, b"f")
    assert (output.stdout, output.stderr) == (b"abc", b"de")
    endless = Output(None)
    endless.add(STDOUT, b"x" * 100)
    assert len(endless.stdout) == 100


def test_a_failure_has_what_was_written() -> None:
    with pytest.raises(CommandFailed, match="exit code 2: why") as caught:
        Result(2, b"out", b"what\nwhy\n").check()
    assert (caught.value.exit_code, caught.value.stdout) == (2, b"out")
    with pytest.raises(CommandFailed, match="127: no such thing"):
        Result(127, b"no such thing\r\n", b"").check()


@pytest.mark.parametrize(
    ("image", "made", "own"),
    [
        ("debian", "name=debian%3Abookworm", "debian%3Abookworm/tag?repo=debian&tag=latest"),
        ("debian:trixie", "name=debian%3Atrixie", ""),
        ("busybox", "name=busybox", ""),
        ("alpine", "name=alpine%3Alatest", ""),
        ("example.com/a:1", "fromImage=example.com%2Fa&tag=1", ""),
    ],
)
def test_where_an_image_comes_from(image: str, made: str, own: str) -> None:
    source = sandbox_words.source_of(image)
    assert source.make.target.endswith(made)
    assert (source.rename.target if source.rename else "").endswith(own)
    assert (source.rename is None) == (not own)


def test_the_end_of_a_block_does_not_hide_its_error() -> None:
    with pytest.raises(InvalidInput), sandbox_words.closing(None):
        raise InvalidInput("said")
    with sandbox_words.closing(ValueError):
        raise InvalidInput("not said")


def test_what_cannot_be_meant() -> None:
    for wrong in (Wanted("x", isolation="wall"), Wanted("x", lifetime=0.0)):
        with pytest.raises(InvalidInput):
            wrong.request()


def test_a_disk_has_a_size() -> None:
    options = {"host_config": {"StorageOpt": {"other": "1"}}}
    host = sandbox_words.Wanted("x", isolation="vm", disk=1 << 30, options=options).request()
    assert host.body is not None
    assert host.body["HostConfig"]["StorageOpt"] == {"other": "1", "size": "1073741824"}


def test_an_exec_that_another_engine_started_has_lost_its_output() -> None:
    state = {"Running": False, "ExitCode": 3}
    assert sandbox_words.code_of(state) == 3
    assert sandbox_words.code_of({"Running": True, "ExitCode": None}) is None
    with pytest.raises(Unavailable, match="lost") as cut:
        sandbox_words.code_of({**state, "Recovered": True})
    assert "ended with exit code 3" in cut.value.hint
    with pytest.raises(Conflict, match="is not running"):
        sandbox_words.code_of({**state, "Fault": {"Status": 409, "Message": "it is not running"}})


def test_a_sandbox_that_ended_says_why() -> None:
    starved = sandbox_words.ended({"State": {"OOMKilled": True, "Error": ""}})
    assert starved.exit_code == 137
    assert starved.message.endswith("while the command ran: it was out of memory")
    assert sandbox_words.ended({}).message.endswith("while the command ran")
