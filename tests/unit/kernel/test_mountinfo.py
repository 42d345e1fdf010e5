"""Words of mountinfo."""

from hypothesis import given
from hypothesis import strategies as st

from skerry.kernel.mountinfo import plain


@given(st.text())
def test_what_the_kernel_escapes_comes_back(path: str) -> None:
    written = "".join(f"\\{ord(each):03o}" if each in " \t\n\\#" else each for each in path)
    assert plain(written) == path
