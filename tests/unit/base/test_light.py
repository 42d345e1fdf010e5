"""Named tuples and typed dicts without `typing`, held against those of `typing`."""

import copy
import pickle
import typing

import pytest

from skerry.base import light


class Ours(light.NamedTuple):
    """A row."""

    first: int
    second: str = "two"
    third: "tuple[int, ...] | None" = None

    @property
    def both(self) -> str:
        """A property of its own."""
        return f"{self.first} {self.second}"


class Theirs(typing.NamedTuple):
    """The same."""

    first: int
    second: str = "two"
    third: "tuple[int, ...] | None" = None


class Words(light.TypedDict, total=False):
    """Some."""

    one: int


def test_it_is_made_shown_and_compared_as_typings() -> None:
    for ours, theirs in (
        (Ours(1), Theirs(1)),
        (Ours(1, third=(2,)), Theirs(1, third=(2,))),
        (Ours(1)._replace(second="x"), Theirs(1)._replace(second="x")),
    ):
        assert ours == theirs == tuple(ours)
        assert hash(ours) == hash(theirs)
        assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
        assert ours._asdict() == theirs._asdict()
        assert (ours.first, ours.second, ours.third) == tuple(theirs)
        assert pickle.loads(pickle.dumps(ours)) == copy.deepcopy(ours) == ours
        assert isinstance(copy.copy(ours), Ours)
    assert Ours(1).both == "1 two"
    assert Ours._fields == Theirs._fields
    assert not hasattr(Ours(1), "__dict__")


def test_what_is_wrong_is_refused_as_by_typings() -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            kind(1, fourth=2)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="unexpected field names"):
            kind(1)._replace(fourth=2)  # type: ignore[call-arg]
        with pytest.raises(AttributeError):
            kind(1).first = 2  # type: ignore[misc]


def test_a_typed_dict_is_a_dict() -> None:
    assert type(Words(one=1)) is dict
    assert Words(one=1) == {"one": 1}
