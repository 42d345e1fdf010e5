"""Options, dispatch, and the state folder, without containers."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import Conflict, InvalidInput, NotFound
from skerry.runtime import arguments, state
from skerry.runtime.arguments import LIST, SWITCH, VALUE, parse
from skerry.runtime.commands import life, update
from skerry.runtime.commands.spec import example
from skerry.runtime.dispatch import COMMANDS, dispatch
from skerry.runtime.main import _name

TABLE = {"all": SWITCH, "file": VALUE, "env": LIST}
SHORT = {"a": "all", "f": "file", "e": "env"}


@pytest.mark.parametrize(
    "words",
    [
        ["--all", "--file", "x", "id"],
        ["-a", "-f", "x", "id"],
        ["id", "--file=x", "-all"],
        ["--all=true", "-f=x", "--", "id"],
    ],
)
def test_forms(words: list[str]) -> None:
    found = parse(words, TABLE, SHORT)
    assert found.switches == {"all"}
    assert found.value("file") == "x"
    assert found.words == ["id"]


def test_a_command_ends_the_options() -> None:
    found = parse(["-e", "A=1", "-e", "B=2", "id", "ls", "-a"], TABLE, SHORT, command_follows=True)
    assert found.lists == {"env": ["A=1", "B=2"]}
    assert found.words == ["id", "ls", "-a"]


@pytest.mark.parametrize("words", [["--nosuch"], ["--file"], ["--all=maybe"]])
def test_mistakes(words: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse(words, TABLE, SHORT)


def test_a_switch_can_be_off() -> None:
    assert parse(["--all", "--all=false"], TABLE).switches == frozenset()


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    try:
        found = parse(words, TABLE, SHORT)
    except InvalidInput:
        return
    assert len(found.words) <= len(words)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["run", "x"], "run"),
        (["--root", "run", "exec"], "exec"),
        (["--root=/x", "--debug", "create"], "create"),
        (["--log-format", "json", "--systemd-cgroup", "state"], "state"),
        ([], ""),
    ],
)
def test_the_command_is_found_by_hand(words: list[str], name: str) -> None:
    assert _name(words) == name


def test_every_command_is_there() -> None:
    expected = "create start state kill delete run exec ps pause resume update list spec features"
    assert set(expected.split()) <= set(COMMANDS)


def test_unknown_command_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["frobnicate"]) == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_help_and_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["--help"]) == 0
    assert "resume" in capfd.readouterr().out
    assert dispatch(["--version"]) == 0
    assert "spec: 1." in capfd.readouterr().out


def test_errors_go_to_the_log_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    root = ["--root", str(tmp_path / "state")]
    assert dispatch([*root, "--log", str(log), "--log-format", "json", "state", "x"]) == 1
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["level"], line["msg"]) == ("error", "container does not exist")
    assert dispatch([*root, "--log", str(log), "state", "x"]) == 1
    assert 'level=error msg="container does not exist"' in log.read_text()
    capfd.readouterr()


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGTERM", 15), ("term", 15), ("1", 1), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)],
)
def test_signals(text: str, number: int) -> None:
    assert life.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NOSUCH", "0", "65", "SIG_DFL", "RTMIN+x", "-9"])
def test_signals_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        life.signal_number(text)


@pytest.mark.parametrize(
    ("option", "text", "amount"),
    [
        ("memory", "64m", 64 << 20),
        ("memory", "1GB", 1 << 30),
        ("memory-swap", "-1", -1),
        ("cpu-share", "5", 5),
    ],
)
def test_amounts(option: str, text: str, amount: int) -> None:
    assert update._amount(option, text) == amount


def record(name: str, **fields: object) -> state.Record:
    made = state.Record(name, "/b", "/b/rootfs", state.now(), 0, 0, "", {}, 0, 0)
    return made._replace(**fields)  # type: ignore[arg-type]


class TestState:
    """The folder of a container."""

    def test_round_trip(self, tmp_path: Path) -> None:
        root = str(tmp_path / "r")
        made = record("a", annotations={"k": "v"}, pid=5)
        state.create(root, made, example())  # type: ignore[arg-type]
        assert state.load(root, "a") == made._replace(maker=state.load(root, "a").maker)
        assert state.load_spec(root, "a")["hostname"] == "skerry"
        state.save(root, made._replace(pid=7))
        assert state.load(root, "a").pid == 7
        assert [r.id for r in state.all_records(root)] == ["a"]
        state.remove(root, "a")
        state.remove(root, "a")
        with pytest.raises(NotFound):
            state.load(root, "a")
        assert os.listdir(root) == []

    def test_an_id_is_taken_once(self, tmp_path: Path) -> None:
        state.create(str(tmp_path), record("a"), example())  # type: ignore[arg-type]
        with pytest.raises(Conflict):
            state.create(str(tmp_path), record("a"), example())  # type: ignore[arg-type]
        assert os.listdir(tmp_path) == ["a"]

    def test_leftovers_of_the_killed_are_swept(self, tmp_path: Path) -> None:
        (tmp_path / ".a.4194305").mkdir()
        (tmp_path / ".a.4194305/state.json").write_text("{")
        (tmp_path / f".b.{os.getpid()}").mkdir()
        assert state.all_records(str(tmp_path)) == []
        assert os.listdir(tmp_path) == [f".b.{os.getpid()}"]

    def test_status_without_process(self, tmp_path: Path) -> None:
        assert state.status(str(tmp_path), record("a", maker=(4194305, 1))) == "stopped"
        assert state.status(str(tmp_path), record("a", pid=os.getpid(), start_time=1)) == "stopped"

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "id": "x"}']
    )
    def test_a_damaged_record_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a/state.json").write_text(text)
        with pytest.raises(InvalidInput, match=r"state\.json"):
            state.load(str(tmp_path), "a")


def test_exactly() -> None:
    assert arguments.exactly(["a"], 1, "x") == ["a"]
    with pytest.raises(InvalidInput, match="needs 1 argument, got 0"):
        arguments.exactly([], 1, "x")
