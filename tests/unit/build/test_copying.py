"""What COPY takes, what that is worth as a key, and where it goes."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, NotFound, SkerryError
from skerry.build import context, copying, modes, wildcards
from skerry.build.context import Context
from skerry.build.directory import DirectoryTree
from skerry.build.tree import resolve

Files = dict[str, bytes | str]
"""Name to contents; a text is a symbolic link's target, a name that ends in a slash a directory."""


def archive(files: Files, *, mtime: int = 1, mode: int = 0o644, uid: int = 7) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mtime, info.mode, info.uid = mtime, mode, uid
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            elif name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def received(data: bytes, folder: Path) -> Context:
    return context.receive(io.BytesIO(data), "build context", str(folder))


def copy(tree: Context | DirectoryTree, root: Path, *sources: str, to: str, **more: object) -> None:
    request = copying.Request(tuple(sources), to, **more)  # type: ignore[arg-type]
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        chosen = copying.select(tree, request)
        copying.place(tree, chosen, request, fd, copying.Placement(made=5 * 10**9))
    finally:
        os.close(fd)


def tree_of(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


SOME: Files = {"a.txt": b"a", "b.md": b"b", "d/": b"", "d/x": b"x", "d/e/y": b"y", "to": "d"}


@pytest.mark.parametrize(
    ("sources", "target", "expected"),
    [
        (("a.txt",), "/new", {"new": "a"}),
        (("a.txt",), "/new/", {"new/a.txt": "a"}),
        (("a.txt",), "/old", {"old/a.txt": "a", "old/kept": "k"}),
        (("a.txt", "b.md"), "/new/", {"new/a.txt": "a", "new/b.md": "b"}),
        (("*.md", "a.?xt"), "/n/", {"n/b.md": "b", "n/a.txt": "a"}),
        (("d",), "/new", {"new/x": "x", "new/e/y": "y"}),
        (("to",), "/new", {"new/x": "x", "new/e/y": "y"}),
        (("d/",), "/link", {"old/x": "x", "old/e/y": "y", "old/kept": "k"}),
        (("d/*",), "/new/", {"new/x": "x", "new/y": "y"}),
        (("../../a.txt",), "/new", {"new": "a"}),
    ],
)
def test_where_files_go(
    tmp_path: Path, sources: tuple[str, ...], target: str, expected: dict[str, str]
) -> None:
    root = tmp_path / "root"
    (root / "old").mkdir(parents=True)
    (root / "old" / "kept").write_text("k")
    (root / "link").symlink_to("/old")
    with received(archive(SOME), tmp_path) as tree:
        copy(tree, root, *sources, to=target)
    found = tree_of(root)
    assert found.pop("link") == "-> /old"
    assert found == {"old/kept": "k"} | expected


def test_parents_let_two_stars_mean_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    files: Files = {"d/x/y/f": b"1", "d/f": b"2", "d/g": b"3", "e/f": b"4", "l": "d"}
    with received(archive(files), tmp_path) as tree:
        copy(tree, root, "d/**/f", to="/p/", parents=True)
        copy(tree, root, "d/./**/f", to="/q/", parents=True)
        # Without --parents they are one star.
        assert wildcards.find(tree, "d/**/f") == []
    assert [name for name, what in tree_of(root).items() if what != "/"] == [
        "p/d/f", "p/d/x/y/f", "q/f", "q/x/y/f",
    ]  # fmt: skip


def test_parents_keep_the_path_behind_the_pivot(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with received(archive(SOME), tmp_path) as tree:
        copy(tree, root, "d/e/y", "d/./e/y", to="/p/", parents=True)
    assert tree_of(root) == {"p/d/e/y": "y", "p/e/y": "y"}


def test_a_copy_sets_owner_mode_and_time(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with received(archive(SOME, mtime=1234), tmp_path) as tree:
        copy(tree, root, "d", to="/n/d", mode=modes.parse("u=rwX,go="))
    status = (root / "n/d/x").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode), status.st_mtime) == (
        os.geteuid(),
        0o600,
        1234,
    )
    assert stat.S_IMODE((root / "n/d/e").stat().st_mode) == 0o700
    assert (root / "n").stat().st_mtime == 5


def test_a_directory_does_not_replace_a_file_nor_the_reverse(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "file").write_text("f")
    with received(archive({"x/d": b"1", "y/file/z": b"2"}), tmp_path) as tree:
        with pytest.raises(InvalidInput, match="cannot overwrite directory with non-directory"):
            copy(tree, root, "x", to="/")
        with pytest.raises(InvalidInput, match="cannot overwrite non-directory with directory"):
            copy(tree, root, "y", to="/")


def digest(data: bytes, folder: Path, *sources: str, **more: object) -> str:
    with received(data, folder) as tree:
        request = copying.Request(sources or (".",), "/", **more)  # type: ignore[arg-type]
        return copying.digest(tree, copying.select(tree, request), request)[0]


def test_times_and_owners_of_a_context_do_not_count(tmp_path: Path) -> None:
    same = digest(archive(SOME), tmp_path)
    assert same == digest(archive(SOME, mtime=99, uid=1000), tmp_path)
    turned = dict(reversed(SOME.items()))
    assert same == digest(archive(turned), tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        archive(SOME | {"a.txt": b"A"}),
        archive(SOME | {"new": b""}),
        archive(SOME | {"to": "e"}),
        archive({key: value for key, value in SOME.items() if key != "d/x"}),
        archive(SOME, mode=0o600),
    ],
)
def test_contents_names_modes_and_links_count(tmp_path: Path, other: bytes) -> None:
    assert digest(archive(SOME), tmp_path) != digest(other, tmp_path)


def test_only_what_is_copied_counts(tmp_path: Path) -> None:
    changed = archive(SOME | {"b.md": b"other"})
    assert digest(archive(SOME), tmp_path, "a.txt") == digest(changed, tmp_path, "a.txt")
    out = {"excluded": lambda path, is_dir: path.endswith(".md")}
    assert digest(archive(SOME), tmp_path, **out) == digest(changed, tmp_path, **out)


def test_a_directory_and_a_context_are_worth_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "d").mkdir(parents=True, mode=0o755)
    (folder / "d").chmod(0o755)
    (folder / "d" / "x").write_text("x")
    (folder / "d" / "x").chmod(0o644)
    (folder / "to").symlink_to("d")
    tree = DirectoryTree(os.open(folder, os.O_RDONLY), "repository", own=False)
    request = copying.Request(("d", "to"), "/t/")
    try:
        mine = copying.digest(tree, copying.select(tree, request), request)
    finally:
        tree.close()
    with received(archive({"d/": b"", "d/x": b"x", "to": "d"}), tmp_path) as other:
        assert mine == copying.digest(other, copying.select(other, request), request)


def test_names_of_one_file_stay_so(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    for folder in (source / "a", source / "b", root):
        folder.mkdir(parents=True)
    (source / "a/one").write_text("x")
    for name in ("a/two", "b/three"):
        os.link(source / "a/one", source / name)
    (source / "b/one").write_text("other")
    tree = DirectoryTree(os.open(source, os.O_RDONLY), "image", own=False)
    try:
        copy(tree, root, ".", to="/all/")
        copy(tree, root, "a/one", "b/one", "b/three", to="/over/")
        copy(tree, root, "a/one", to="/alone")
    finally:
        tree.close()
    all_ = root / "all"
    assert all_.joinpath("a/one").samefile(all_ / "a/two")
    assert all_.joinpath("a/one").samefile(all_ / "b/three")
    assert os.stat(all_ / "a/one").st_nlink == 3
    assert (all_ / "b/one").read_text() == "other"
    # A name that was taken over by another file is none of it any more.
    assert (root / "over/one").read_text() == "other"
    assert (root / "over/three").read_text() == "x"
    assert os.stat(root / "alone").st_nlink == 1


@pytest.mark.parametrize("path", ["missing", "a.txt/x", "out", "up", "d/nothing*"])
def test_links_never_leave_the_tree(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("s")
    files = SOME | {"out": str(tmp_path / "secret"), "up": "../../../secret"}
    with received(archive(files), tmp_path) as tree, pytest.raises(NotFound, match="in build con"):
        copying.select(tree, copying.Request((path,), "/"))


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    with (
        received(archive({"a": "b", "b": "a"}), tmp_path) as tree,
        pytest.raises(InvalidInput, match="too many levels of links"),
    ):
        resolve(tree, "a")


def test_names_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    name = os.fsdecode(b"caf\xe9")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", errors="surrogateescape") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with received(out.getvalue(), tmp_path) as tree:
        copy(tree, root, ".", to="/")
    assert os.listdir(os.fsencode(root)) == [b"caf\xe9"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda info: setattr(info, "name", "../x"), "leads out of the context"),
        (lambda info: setattr(info, "type", tarfile.CHRTYPE), "devices cannot be"),
        (lambda info: setattr(info, "type", tarfile.LNKTYPE), "hard link to missing"),
    ],
)
def test_hostile_entries_are_named(tmp_path: Path, make: object, reason: str) -> None:
    info = tarfile.TarInfo("x")
    info.linkname = "nothing"
    make(info)  # type: ignore[operator]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(info)
    before = set(os.listdir(tmp_path))
    with pytest.raises(InvalidInput, match=reason):
        received(out.getvalue(), tmp_path)
    assert set(os.listdir(tmp_path)) == before


@given(st.binary(max_size=2048), st.integers(0, 4096), st.booleans())
@settings(max_examples=120, deadline=None)
def test_damaged_archives_are_an_error_or_a_tree(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, cut: bool
) -> None:
    data = archive(SOME)
    damaged = data[:at] + noise + (b"" if cut else data[at + len(noise) :])
    folder = tmp_path_factory.getbasetemp()
    try:
        with received(damaged, folder) as tree:
            request = copying.Request((".",), "/")
            copying.digest(tree, copying.select(tree, request), request)
    except SkerryError:
        pass


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a*b", "aXXb", True),
        ("a*b", "a/b", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        (r"\*", "*", True),
        (r"\*", "x", False),
        ("?", "/", False),
        ("a[]b", "a", None),
        ("a[", "a", None),
        ("[-]", "-", None),
        ("a\\", "a", None),
    ],
)
def test_wildcards_are_gos(pattern: str, name: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(InvalidInput, match="syntax error in pattern"):
            wildcards.match(pattern, name)
    else:
        assert wildcards.match(pattern, name) is expected


@pytest.mark.parametrize(
    ("text", "mode", "directory", "expected"),
    [
        ("644", 0o777, False, 0o644),
        ("4755", 0, False, 0o4755),
        ("u+x", 0o644, False, 0o744),
        ("a+rX", 0o600, False, 0o644),
        ("a+rX", 0o600, True, 0o755),
        ("go-rwx,u=rw", 0o777, False, 0o600),
        ("g=u", 0o640, False, 0o660),
        ("+t", 0o755, True, 0o1755),
        ("u=rwx,g+s", 0o4755, True, 0o6755),
    ],
)
def test_chmod_is_chmods(text: str, mode: int, directory: bool, expected: int) -> None:
    assert oct(modes.parse(text).apply(mode, directory=directory)) == oct(expected)


@pytest.mark.parametrize("text", ["", "8", "99999", "u", "x+y", "u=rwx,", "77777"])
def test_chmod_refuses_the_rest(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid chmod parameter"):
        modes.parse(text)
