"""`python -m skerry engine …` runs the engine, `registry …` the registry server; every other word
is the command line's.

`host-report ROOT` is what `skerry doctor` falls back to when no engine comes up: that is when a
doctor is needed most.
"""

import sys


def main() -> int:
    """Hand over to the engine or to the command line."""
    if sys.argv[1:2] == ["engine"]:
        from skerry.api.main import main as engine

        return engine(sys.argv[2:])
    if sys.argv[1:2] == ["registry"]:
        from skerry.registry.server.main import main as registry

        return registry(sys.argv[2:])
    if sys.argv[1:2] == ["host-report"]:
        import json

        from skerry.engine.host import examine

        print(json.dumps([check._asdict() for check in examine(sys.argv[2])]))  # noqa: T201
        return 0
    from skerry.cli.main import entry

    return int(entry() or 0)


if __name__ == "__main__":
    sys.exit(main())
