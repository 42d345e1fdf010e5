"""`skerry-runtime` again, run by its path from a read-only copy of the interpreter; see `main`."""

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(1, os.path.dirname(os.path.dirname(here)))
    sys.argv[0] = "skerry-runtime"
    from skerry.runtime.main import entry

    sys.exit(entry())
