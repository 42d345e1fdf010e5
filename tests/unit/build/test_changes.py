"""`--change` of commit and import."""

from typing import Any

import pytest

from skerry.base.errors import InvalidInput
from skerry.build.changes import applied


def test_changes_of_a_commit() -> None:
    config: dict[str, Any] = {"Env": ["A=1"], "Labels": {"x": "y"}, "WorkingDir": "/srv"}
    changes = (
        'CMD ["a", "b"]',
        "ENTRYPOINT run it",
        "ENV A=2 B='c d'",
        "LABEL k=$A",
        "EXPOSE 80 53/udp",
        "VOLUME /data",
        "USER web",
        "WORKDIR below",
        "HEALTHCHECK --interval=2s CMD true",
        "ONBUILD RUN x",
        "STOPSIGNAL INT",
    )
    assert applied(config, changes) == {
        "Cmd": ["a", "b"],
        "Entrypoint": ["/bin/sh", "-c", "run it"],
        "Env": ["A=2", "B=c d"],
        "Labels": {"x": "y", "k": "2"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "User": "web",
        "WorkingDir": "/srv/below",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000},
        "OnBuild": ["RUN x"],
        "StopSignal": "INT",
    }
    assert config["Env"] == ["A=1"]
    assert applied(config, []) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("RUN true", "RUN is not a valid change command"),
        ("LABEL a=b\nFROM x", "FROM is not a valid"),
        ("LABEL a=b\nRUN x", "RUN is not a valid change command"),
        ("", "file with no instructions"),
        ("EXPOSE x", "invalid"),
        ("ENV a", "ENV"),
        ("LABEL", "LABEL"),
        ("STOPSIGNAL NOSUCH", "invalid signal"),
    ],
)
def test_what_is_no_change(change: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        applied({}, [change])
