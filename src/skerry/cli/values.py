"""Values as people write them on Docker's command line: sizes, durations, numbers, key=value."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput
from skerry.cli.options import UsageError

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = (
    ("ms", 1e-3),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ns", 1e-9),
    ("h", 3600),
    ("m", 60),
    ("s", 1),
)


def parse_size(text: str, what: str = "size") -> int:
    """Bytes of `64m`, `1.5g`, `512`, `10MiB` (powers of 1024); -1 stays -1."""
    if text == "-1":
        return -1
    word = text.strip().lower()
    if word.endswith("b"):
        word = word[:-1].removesuffix("i") if word[:-1].endswith("i") else word[:-1]
    unit = word[-1:] if word[-1:] in _UNITS else ""
    digits = word.removesuffix(unit).strip() if unit else word.strip()
    number = digits.replace(".", "", 1)
    if len(digits) > 25 or not (number.isascii() and number.isdecimal()):
        raise InvalidInput(f"invalid {what}: {text!r}", hint="write it as 512m, 1.5g or in bytes")
    return (
        int(float(digits) * 1024 ** _UNITS[unit])
        if "." in digits
        else (int(digits) * 1024 ** _UNITS[unit])
    )


def parse_duration(text: str, what: str = "duration") -> int:
    """Nanoseconds of Go's `1h2m3.5s`, `300ms`, `0`."""
    rest, total = text.strip(), 0.0
    if rest == "0":
        return 0
    negative = rest.startswith("-")
    rest = rest.lstrip("+-")
    if not rest:
        raise _bad_duration(text, what)
    while rest:
        length = 0
        while length < len(rest) and (rest[length].isdecimal() or rest[length] == "."):
            length += 1
        try:
            amount = float(rest[:length])
        except ValueError:
            raise _bad_duration(text, what) from None
        rest = rest[length:]
        for unit, seconds in _SECONDS:
            if rest.startswith(unit):
                total += amount * seconds
                rest = rest[len(unit) :]
                break
        else:
            raise _bad_duration(text, what)
    return round((-total if negative else total) * 1e9)


def _bad_duration(text: str, what: str) -> InvalidInput:
    return InvalidInput(f"invalid {what}: {text!r}", hint="write it as 30s, 1m30s or 500ms")


def parse_cpus(text: str) -> int:
    """Billionths of a processor: `1.5` is 1500000000."""
    whole, _, part = text.partition(".")
    if not (whole + part).isdecimal() or not text.isascii() or len(text) > 20:
        raise InvalidInput(f"invalid number of CPUs: {text!r}", hint="write it as 0.5 or 2")
    if len(part) > 9:
        raise InvalidInput(f"invalid number of CPUs: {text!r} is too precise")
    return int(whole or "0") * 10**9 + int((part + "0" * 9)[:9])


def key_values(items: list[str], what: str) -> dict[str, str]:
    """`k=v` each; `k` alone gives an empty value."""
    pairs = {}
    for item in items:
        key, _, value = item.partition("=")
        if not key:
            raise InvalidInput(f"invalid {what}: {item!r}", hint=f"write a {what} as name=value")
        pairs[key] = value
    return pairs


def read_lines(path: str, what: str) -> list[str]:
    """The lines of a small text file without blanks, comments and leading spaces."""
    try:
        with open(path, "rb") as file:
            data = file.read(4 * 1024 * 1024)
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except OSError as error:
        raise InvalidInput(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"the {what} {path} is not UTF-8") from None
    lines = [line.lstrip().rstrip("\r") for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]


def environment(given: list[str], files: list[str]) -> list[str]:
    """Docker's rule: files first, then -e; a bare name takes this process's value.

    A bare name that is not set here is dropped from a file, and stays bare from -e, which removes
    the image's own setting.
    """
    result = []
    for path in files:
        for line in read_lines(path, "environment file"):
            name, equals, value = line.partition("=")
            if not name or any(letter.isspace() for letter in name):
                raise InvalidInput(f"invalid variable {line!r:.80} in {path}")
            if equals:
                result.append(f"{name}={value}")
            elif name in os.environ:
                result.append(f"{name}={os.environ[name]}")
    for item in given:
        name, equals, _ = item.partition("=")
        if not name:
            raise InvalidInput(f"invalid environment variable: {item!r}")
        if not equals and name in os.environ:
            item = f"{name}={os.environ[name]}"
        result.append(item)
    return result


def parse_filters(items: list[str]) -> dict[str, list[str]]:
    """`--filter name=value` as the API's `filters` object."""
    filters: dict[str, list[str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"bad format of filter {item!r} (expected name=value)")
        filters.setdefault(name.strip().lower(), []).append(value.strip())
    return filters


def parse_time(text: str) -> str:
    """A point in time for the API, in seconds since the epoch: a duration back from now (`10m`),
    a Unix time, or RFC 3339 with or without its end (`2026-01-02`, `2026-01-02T03:04`)."""
    if not text:
        return ""
    if text.replace(".", "", 1).isdecimal():
        return text
    import time

    try:
        return f"{time.time() - parse_duration(text) / 1e9:.9f}"
    except InvalidInput:
        pass
    import datetime

    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"invalid time: {text!r}", hint="write it as 10m, 2026-01-02T03:04:05 or a Unix time"
        ) from None
    return f"{moment.timestamp():.9f}"
