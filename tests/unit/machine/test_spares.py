"""Which spare machines are made and dropped, and when."""

from skerry.machine import spares
from skerry.machine.spares import Asked, Kept, Plan, plan

NOW = 1000.0
QUIET = NOW - spares.QUIET_SECONDS


def decide(
    asked: dict[str, float | Asked],
    kept: list[Kept] | None = None,
    *,
    most: int = 1,
    failed: dict[str, float] | None = None,
    starting: bool = False,
    short: bool = False,
) -> Plan:
    full = {key: each if isinstance(each, Asked) else Asked(each) for key, each in asked.items()}
    return plan(NOW, most, full, failed or {}, kept or [], starting=starting, short=short)


def ready(key: str, id_: str = "") -> Kept:
    return Kept(id_ or f"of-{key}", key, True, NOW - 60)


def test_one_is_made_for_what_was_asked_for() -> None:
    assert decide({"a": QUIET}) == Plan([], "a")
    assert decide({}) == Plan([], "")
    assert decide({"a": QUIET}, [ready("a")]) == Plan([], "")


def test_none_is_made_beside_a_start_or_right_after() -> None:
    assert decide({"a": QUIET}, starting=True).make == ""
    assert decide({"a": QUIET + 0.1}).make == ""
    # The start of another kind counts as well.
    assert decide({"a": QUIET, "b": NOW}, most=2).make == ""


def test_one_is_made_at_a_time() -> None:
    making = Kept("x", "a", False, NOW - 1)
    assert decide({"a": QUIET, "b": QUIET - 1}, [making], most=2) == Plan([], "")


def test_the_most_recent_kinds_have_one_each() -> None:
    asked = {"old": QUIET - 20, "new": QUIET}
    assert decide(asked, [ready("old")]) == Plan(["of-old"], "new")
    assert decide(asked, [ready("old")], most=2) == Plan([], "new")
    twice = [ready("new"), ready("new", "second")]
    assert decide({"new": QUIET}, twice) == Plan(["second"], "")


def test_zero_turns_it_off() -> None:
    assert decide({"a": QUIET}, [ready("a")], most=0) == Plan(["of-a"], "")


def test_it_goes_when_nobody_asks_any_more_or_memory_is_short() -> None:
    gone = {"a": NOW - spares.KEEP_SECONDS, "b": QUIET}
    assert decide(gone, [ready("a"), ready("b")], most=2) == Plan(["of-a"], "")
    # What was asked for last stays longer.
    assert decide({"a": NOW - spares.KEEP_SECONDS}, [ready("a")]) == Plan([], "")
    assert decide({"a": NOW - spares.LAST_SECONDS}, [ready("a")]) == Plan(["of-a"], "")
    assert decide({}, [ready("a")]) == Plan(["of-a"], "")
    assert decide({"a": QUIET}, [ready("a")], short=True) == Plan(["of-a"], "")


def test_one_that_does_not_get_ready_is_dropped_and_not_tried_again_at_once() -> None:
    stuck = Kept("x", "a", False, NOW - spares.MAKE_SECONDS - 1)
    assert decide({"a": QUIET}, [stuck]).drop == ["x"]
    assert decide({"a": QUIET}, failed={"a": NOW - 1}) == Plan([], "")
    assert decide({"a": QUIET}, failed={"a": NOW - spares.AGAIN_SECONDS}) == Plan([], "a")
    assert decide({"a": QUIET, "b": QUIET - 1}, failed={"a": NOW - 1}, most=2).make == "b"


def test_what_comes_in_bursts_has_a_second_where_there_is_a_place() -> None:
    burst = Asked(QUIET, missed=QUIET)
    assert decide({"a": burst}, [ready("a")], most=2) == Plan([], "a")
    assert decide({"a": burst}, [ready("a"), ready("a", "two")], most=2) == Plan([], "")
    # Another kind comes first.
    assert decide({"a": burst, "b": QUIET - 9}, [ready("a")], most=2) == Plan([], "b")
    late = Asked(QUIET, missed=NOW - spares.KEEP_SECONDS)
    assert decide({"a": late}, [ready("a"), ready("a", "two")], most=2) == Plan(["two"], "")


def test_where_volumes_are_asked_for_a_spare_can_have_them() -> None:
    volumes = Asked(QUIET, shares=QUIET - 20)
    assert decide({"a": volumes}) == Plan([], "a", shares=True)
    assert decide({"a": volumes}, [ready("a")]) == Plan(["of-a"], "a", shares=True)
    fitting = ready("a")._replace(shares=True)
    assert decide({"a": volumes}, [fitting]) == Plan([], "")
    assert decide({"a": QUIET}, [fitting]) == Plan([], ""), "it does for others too"
