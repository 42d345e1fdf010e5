"""Lists as Docker's command line prints them: a table, a Go template per line, JSON lines, ids."""

from __future__ import annotations

from skerry.cli.context import out, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Fields = dict[str, Any]

_PADDING, _MINIMUM = 3, 10
"""As Docker sets Go's text/tabwriter."""


def layout(rows: list[list[str]], *, padding: int = _PADDING, minimum: int = _MINIMUM) -> str:
    """Cells in columns; the last cell of a row is not padded. Control characters are escaped."""
    rows = [[visible(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    widths = [
        max([minimum, *(len(row[at]) + padding for row in rows if len(row) - 1 > at)])
        for at in range(columns)
    ]
    lines = []
    for row in rows:
        cells = [cell.ljust(widths[at]) for at, cell in enumerate(row[:-1])] + row[-1:]
        lines.append("".join(cells))
    return "".join(f"{line}\n" for line in lines)


def label_text(labels: dict[str, str]) -> str:
    """Labels as one column shows them."""
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


def label_method(item: Fields) -> dict[str, Callable[..., Any]]:
    """`.Label "key"` of an item that has `labels`."""
    return {"Label": lambda name: item["labels"].get(name, "")}


class Listing:
    """What can be shown of each item, and how by default."""

    def __init__(self, headings: dict[str, str], default: str, quiet: str) -> None:
        """`headings` is field name to column heading, `default` the template of the table and
        `quiet` the field that --quiet prints."""
        self.headings = headings
        self.default = default
        self.quiet = quiet

    def show(
        self,
        items: Iterable[Fields],
        *,
        form: str = "",
        quiet: bool = False,
        methods: Callable[[Fields], dict[str, Callable[..., Any]]] | None = None,
    ) -> None:
        """Print all; `methods` makes the fields that take arguments, such as `.Label "k"`."""
        out(self.text(items, form=form, quiet=quiet, methods=methods), end="")

    def text(
        self,
        items: Iterable[Fields],
        *,
        form: str = "",
        quiet: bool = False,
        methods: Callable[[Fields], dict[str, Callable[..., Any]]] | None = None,
    ) -> str:
        """What `show` prints."""
        if quiet and form in ("", "table"):
            return "".join(f"{item[self.quiet]}\n" for item in items)
        if form in ("", "table"):
            return self._plain(items)
        from skerry.cli import template

        if form == "json":
            form = "{{json .}}"
        tabular = form.startswith("table ")
        text = form.removeprefix("table ").lstrip() if tabular else form
        parsed = template.parse(text.replace("\\t", "\t").replace("\\n", "\n"))
        rows = [template.Row(public(item), methods(item) if methods else None) for item in items]
        lines = [parsed.render(row) for row in rows]
        if not tabular:
            return "".join(f"{line}\n" for line in lines)
        heading = template.Row(dict(self.headings), {"Label": label_heading} if methods else None)
        lines.insert(0, parsed.render(heading, heading=True))
        return layout([line.split("\t") for whole in lines for line in whole.split("\n")])

    def _plain(self, items: Iterable[Fields]) -> str:
        """The default table without the template engine, which takes 10 ms to import."""
        names = self.default.split()
        rows = [[self.headings[name] for name in names]]
        rows += [[str(item[name]) for name in names] for item in items]
        return layout(rows)


def label_heading(name: str) -> str:
    """Docker's: the last part of a label's name, as words."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def public(item: Fields) -> Fields:
    """Fields that users may name: those that begin with a capital."""
    return {name: item[name] for name in sorted(item) if name[:1].isupper()}


def ellipsis(text: str, width: int) -> str:
    """At most `width` characters, the last one an ellipsis when some were cut."""
    return text if len(text) <= width else text[: width - 1] + "…"
