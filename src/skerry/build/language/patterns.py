"""Shell patterns inside `${name#pattern}` and its kin: `*`, `?`, escapes.

Matched by following all possibilities at once, so that no pattern takes longer than its length
times the text's; a limit on that product keeps hostile ones cheap.
"""

from typing import Final

from skerry.build.language.faults import DockerfileFault

MAX_WORK: Final = 20_000_000
_ANY: Final = None
_STAR: Final = ""


class Pattern:
    """One pattern. DockerfileFault when it ends in an escape character or costs too much."""

    def __init__(self, text: str, escape: str = "\\") -> None:
        self._tokens: list[str | None] = []
        chars = iter(text)
        for char in chars:
            if char == escape:
                following = next(chars, "")
                if not following:
                    raise DockerfileFault("invalid pattern: it ends in an escape character")
                self._tokens.append(following)
            elif char == "*":
                # Runs of stars match what one does.
                if self._tokens[-1:] != [_STAR]:
                    self._tokens.append(_STAR)
            else:
                self._tokens.append(_ANY if char == "?" else char)

    def _ends(self, text: str, start: int, *, first: bool) -> int:
        """Where a match that begins at `start` ends: the first or the last place; -1 for none."""
        tokens = self._tokens
        count = len(tokens)
        states = self._closed({0})
        found = start if count in states else -1
        if first and found >= 0:
            return found
        for place in range(start, len(text)):
            char = text[place]
            following = set()
            for state in states:
                if state == count:
                    continue
                token = tokens[state]
                if token == _STAR:
                    following.add(state)
                elif token is _ANY or token == char:
                    following.add(state + 1)
            states = self._closed(following)
            if not states:
                break
            if count in states:
                found = place + 1
                if first:
                    break
        return found

    def _closed(self, states: set[int]) -> set[int]:
        result = set()
        for state in states:
            result.add(state)
            while state < len(self._tokens) and self._tokens[state] == _STAR:
                state += 1
                result.add(state)
        return result

    def _afford(self, text: str, starts: int) -> None:
        if len(text) * (len(self._tokens) + 1) * starts > MAX_WORK:
            raise DockerfileFault("pattern and value are too long to be matched")

    def without_prefix(self, text: str, *, longest: bool) -> str:
        """The text less the shortest or longest beginning that matches."""
        self._afford(text, 1)
        end = self._ends(text, 0, first=not longest)
        return text if end < 0 else text[end:]

    def without_suffix(self, text: str, *, longest: bool) -> str:
        """The text less the shortest or longest end that matches."""
        mirrored = Pattern("")
        mirrored._tokens = self._tokens[::-1]
        return mirrored.without_prefix(text[::-1], longest=longest)[::-1]

    def replace(self, text: str, new: str, *, every: bool) -> str:
        """The first match, or every one, replaced; matches are as long as can be."""
        self._afford(text, max(1, len(text)))
        made: list[str] = []
        place = 0
        while place <= len(text):
            end = self._ends(text, place, first=False)
            # An empty match replaces nothing.
            if end > place:
                made.append(new)
                place = end
                if not every:
                    break
            else:
                made.append(text[place : place + 1])
                place += 1
        return "".join(made) + text[place:]
