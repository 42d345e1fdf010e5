"""A build's events as the classic builder's JSON stream, in the order of the Dockerfile.

Stages run beside one another; what a later step says waits until the steps before it are done.
"""

import codecs
from collections.abc import Iterator
from typing import Any

from skerry.base.ids import short
from skerry.build.events import Event

Message = dict[str, Any]


class Classic:
    """Takes events, gives messages."""

    def __init__(self, tags: tuple[str, ...], *, quiet: bool = False) -> None:
        self._tags = tags
        self._quiet = quiet
        self._order: list[str] = []
        self._texts: dict[str, str] = {}
        self._waiting: dict[str, list[Message]] = {}
        self._finished: set[str] = set()
        self._at = 0
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def take(self, event: Event) -> Iterator[Message]:
        """The messages that can be told now."""
        kind = event["kind"]
        if kind == "plan":
            for each in event["steps"]:
                self._order.append(each["step"])
                self._texts[each["step"]] = each["text"]
            yield from self._begin()
        elif kind == "result":
            yield from self._result(event)
        elif not self._quiet:
            if kind == "pull":
                yield event["message"]
            elif kind == "warning":
                yield _stream(f"[Warning] {event['text']}\n")
            elif "step" in event:
                yield from self._step(kind, event)

    def _step(self, kind: str, event: Event) -> Iterator[Message]:
        step = event["step"]
        if step not in self._texts:
            self._texts[step] = event.get("text", "")
            self._order.insert(self._place(step), step)
        messages = list(self._said(kind, event))
        if kind in ("done", "failed"):
            self._finished.add(step)
        if self._at < len(self._order) and step == self._order[self._at]:
            yield from messages
            yield from self._advance()
        else:
            self._waiting.setdefault(step, []).extend(messages)

    def _place(self, step: str) -> int:
        """Where a step belongs that an ONBUILD trigger added."""
        numbers = [tuple(map(int, each.split("."))) for each in self._order]
        mine = tuple(map(int, step.split(".")))
        return sum(1 for each in numbers if each < mine)

    def _said(self, kind: str, event: Event) -> Iterator[Message]:
        if kind == "running" and event.get("program"):
            yield _stream(f" ---> Running in {event['program'][:12]}\n")
        elif kind == "log":
            decoder = self._decoders.setdefault(
                event["step"], codecs.getincrementaldecoder("utf-8")("replace")
            )
            if text := decoder.decode(event["data"]):
                yield _stream(text)
        elif kind == "done":
            if event.get("cached"):
                yield _stream(" ---> Using cache\n")
            if shown := event.get("key") or short(event.get("chain") or ""):
                yield _stream(f" ---> {shown}\n")

    def _begin(self) -> Iterator[Message]:
        if not self._quiet and self._at < len(self._order):
            step = self._order[self._at]
            count = f"{self._at + 1}/{len(self._order)}"
            yield _stream(f"Step {count} : {self._texts[step]}\n")

    def _advance(self) -> Iterator[Message]:
        while self._at < len(self._order) and self._order[self._at] in self._finished:
            self._at += 1
            yield from self._begin()
            if self._at < len(self._order):
                yield from self._waiting.pop(self._order[self._at], [])

    def _result(self, event: Event) -> Iterator[Message]:
        image = event["image"]
        if self._quiet:
            yield _stream(f"{image}\n")
            return
        yield {"aux": {"ID": image}}
        yield _stream(f"Successfully built {short(image)}\n")
        for tag in self._tags:
            yield _stream(f"Successfully tagged {tag}\n")


def _stream(text: str) -> Message:
    return {"stream": text}
