"""What is wrong with a template, and where."""

from __future__ import annotations

from skerry.base.errors import InvalidInput


class TemplateError(InvalidInput):
    """A template that cannot be read, or not be applied to this value. `place` is line:column."""

    def __init__(self, why: str, text: str, offset: int) -> None:
        line = text.count("\n", 0, offset) + 1
        column = offset - (text.rfind("\n", 0, offset) + 1) + 1
        self.place = f"{line}:{column}"
        super().__init__(f"template: {self.place}: {why}")
