"""The table on stdout and the results file."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.daemons import REPOSITORY
from bench.measure import Outcome

RESULTS = Path(__file__).resolve().parent / "results"


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a case, then one line a target."""
    lines = [f"{'benchmark':<12} {'case':<26} {'n':>4} {'median':>9} {'p95':>9} unit"]
    for outcome in outcomes:
        lines += [
            f"{outcome.name:<12} {one.label:<26} {len(one.values):>4} "
            f"{one.median:>9.1f} {one.p95:>9.1f} {outcome.unit}"
            for one in outcome.series.values()
        ]
        lines += [
            f"{outcome.name:<12} {label:<26}    - {_brief(reason)}"
            for label, reason in outcome.missing.items()
        ]
    lines += ["", f"{'benchmark':<12} {'ours':<24} {'against':<24} {'ratio':>7} {'wanted':>8}"]
    for outcome in outcomes:
        sign = ">=" if outcome.larger_is_better else "<="
        for target in outcome.targets:
            ratio = outcome.ratio(target)
            lines.append(
                f"{outcome.name:<12} {target.ours:<24} {target.peer:<24} "
                f"{'-' if ratio is None else f'{ratio:.3f}':>7} {sign}{target.ratio:>6.2f} "
                f"{'met' if outcome.met(target) else 'MISSED' if ratio else 'no figures'}"
            )
    return "\n".join(lines)


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All figures with what they were taken on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]),
        "machine": {
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "load": [round(value, 2) for value in os.getloadavg()],
            "python": platform.python_version(),
        },
        "peers": {
            "dockerd": _output(["/usr/sbin/dockerd", "--version"]),
            "runc": _output(["/usr/sbin/runc", "--version"]).partition("\n")[0],
            "docker": _output(["docker", "--version"]),
        },
        "outcomes": [outcome.as_json() for outcome in outcomes],
    }


def save(outcomes: Sequence[Outcome], target: Path | None) -> Path:
    """Write the results; by default into bench/results, which git ignores."""
    data = document(outcomes)
    if target is None:
        RESULTS.mkdir(exist_ok=True)
        target = RESULTS / f"{data['date'].replace(':', '').replace('+0000', 'Z')}.json"
    target.write_text(json.dumps(data, indent=1) + "\n")
    return target


def _brief(reason: str) -> str:
    """The first line of a complaint and the last, where a traceback or a log says why."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
