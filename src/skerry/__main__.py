"""`python -m skerry engine …` runs the engine; every other word is the command line's."""

import sys


def main() -> int:
    """Hand over to the engine or to the command line."""
    if sys.argv[1:2] == ["engine"]:
        from skerry.api.main import main as engine

        return engine(sys.argv[2:])
    from skerry.cli.main import entry

    return int(entry() or 0)


if __name__ == "__main__":
    sys.exit(main())
