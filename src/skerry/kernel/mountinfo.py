"""Words of /proc/<pid>/mountinfo: proc_pid_mountinfo(5)."""

import re

_ESCAPE = re.compile(r"\\([0-7]{3})")


def plain(word: str) -> str:
    """A path of the table as it is: blanks, line ends and backslashes come as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)
