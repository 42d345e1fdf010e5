"""Where something stands in a Dockerfile."""

from typing import NamedTuple


class Span(NamedTuple):
    """A run of whole lines and, in the first of them, of columns. All count from 1.

    `end_column` is the first column behind; 0 for all that is left of the line.
    """

    line: int
    end_line: int
    column: int = 1
    end_column: int = 0
