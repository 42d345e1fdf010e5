"""When a step is ended that stays at its limit of processes."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from skerry.api.routes.build import error_line
from skerry.base.errors import Conflict, GuestFault
from skerry.build import processes
from skerry.build.errors import ForkedWithoutEnd, StepFailed
from skerry.build.processes import Crowd

LIMIT = 100
BOMB = [(second / 2, LIMIT, 7 * second) for second in range(1, 40)]


def ended_at(looks: Iterable[tuple[float, int, int]], limit: int = LIMIT) -> float | None:
    """The moment at which a crowd of these (moment, processes, refused) is ended."""
    crowd = Crowd()
    return next((at for at, count, refused in looks if crowd.see(at, count, limit, refused)), None)


def test_a_bomb_is_ended_after_a_while() -> None:
    assert ended_at(BOMB) == 10.5
    assert ended_at((at, 93, refused) for at, _, refused in BOMB) == 10.5


@pytest.mark.parametrize(
    "looks",
    [
        [(at, LIMIT, 500) for at, _, _ in BOMB],
        [(at, LIMIT // 2, refused) for at, _, refused in BOMB],
        [(at, LIMIT, refused // 30) for at, _, refused in BOMB],
        [(at, 10 if at % 8 == 0 else LIMIT, refused) for at, _, refused in BOMB],
        [(at * 20, LIMIT, refused) for at, _, refused in BOMB[:10]],
    ],
    ids=["sits at the limit", "far from it", "asks seldom", "comes and goes", "hardly seen"],
)
def test_an_honest_step_goes_on(looks: list[tuple[float, int, int]]) -> None:
    assert ended_at(looks) is None


def test_without_a_limit_nothing_is_refused() -> None:
    assert ended_at(BOMB, limit=0) is None


async def test_the_error_says_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS", 0)
    monkeypatch.setattr(processes, "_BETWEEN", 0)
    looks = iter(range(1000))

    class Driver:
        async def stats(self, _id: str) -> Any:
            return SimpleNamespace(pids=LIMIT, pids_limit=LIMIT)

        async def refused_forks(self, _id: str) -> int:
            look = next(looks)
            if look == 3:
                raise Conflict("it is ending")
            return look

    with pytest.raises(ForkedWithoutEnd) as ended:
        await processes.watch(Driver(), "id", "sh -c f", "0.1")  # type: ignore[arg-type]
    error = ended.value
    assert isinstance(error, GuestFault)
    assert "'sh -c f' was ended" in error.message
    assert f"limit of {LIMIT} processes" in error.message
    assert "--pids-limit" in error.hint
    assert (error.code, error.step) == (137, "0.1")


def test_the_classic_stream_has_dockers_words_unless_there_is_more_to_say() -> None:
    plain = StepFailed("false", 1, step="0.1")
    plain.hint = "Dockerfile:2:1"
    words = "The command 'false' returned a non-zero code: 1"
    assert error_line(plain) == {"errorDetail": {"code": 1, "message": words}, "error": words}
    bomb = ForkedWithoutEnd("f", 60, 5000, 10, step="0.1")
    assert "was refused another 5000 times" in error_line(bomb)["error"]
    assert "--pids-limit" in error_line(bomb)["error"]
