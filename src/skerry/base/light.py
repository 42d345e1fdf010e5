"""What lean modules need of `typing`, without it: that costs the start of a command 10 ms, and each
process that is forked from the spawner 1.5 MB to share or copy.

For a type checker the names are those of `typing`. At run time an annotation means nothing here,
and a `NamedTuple` is made of the same parts as that of `collections`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NamedTuple, NoReturn, TypedDict, TypeVar, cast
else:
    from _collections import _tuplegetter

    Any = object
    NoReturn = None

    class Final:
        """Bare, or with the type in brackets."""

        def __class_getitem__(cls, _):
            return cls

    def TypeVar(_):  # noqa: N802
        """Anything."""
        return Any

    def cast(_, value):
        """The value."""
        return value

    class _Fields(type):
        """Makes the class of a tuple from the fields that its body declares."""

        def __new__(mcs, name, bases, body):
            if bases != (tuple,) and not hasattr(bases[0], "_fields"):
                body |= _tuple_of(tuple(body.get("__annotations__", ())), body)
            return type.__new__(mcs, name, bases, body)

    def _tuple_of(fields, body):
        defaults = {field: body[field] for field in fields if field in body}
        words = [f"{each}=_defaults[{each!r}]" if each in defaults else each for each in fields]
        row = "".join(f"{each}, " for each in fields)
        scope = {"_defaults": defaults, "_new": tuple.__new__}
        new = eval(f"lambda {', '.join(['_cls', *words])}: _new(_cls, ({row}))", scope)
        getters = {each: _tuplegetter(at, "") for at, each in enumerate(fields)}
        return {**getters, "__slots__": (), "__new__": new, "_fields": fields}

    class NamedTuple(tuple, metaclass=_Fields):
        """`typing.NamedTuple`."""

        __slots__ = ()

        def __repr__(self):
            pairs = [f"{name}={self[at]!r}" for at, name in enumerate(self._fields)]
            return f"{type(self).__name__}({', '.join(pairs)})"

        def __getnewargs__(self):
            return tuple(self)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            given = [changes.pop(name, old) for name, old in zip(self._fields, self, strict=True)]
            if changes:
                raise ValueError(f"got unexpected field names: {list(changes)!r}")
            return tuple.__new__(type(self), given)

    class _Plain(type):
        """A class whose objects are plain dicts."""

        def __new__(mcs, name, bases, body, total=True):
            return type.__new__(mcs, name, bases, body)

        def __call__(cls, *values, **named):
            return dict(*values, **named)

    class TypedDict(metaclass=_Plain):
        """`typing.TypedDict`."""


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "Final",
    "NamedTuple",
    "NoReturn",
    "TypeVar",
    "TypedDict",
    "cast",
]
