"""What is taken away from a fresh Debian."""

from pathlib import Path

from skerry.store.bootstrap.debian import _empty_logs


def test_folders_of_logs_stay(tmp_path: Path) -> None:
    (tmp_path / "nginx").mkdir(mode=0o750)
    for name in ("dpkg.log", "nginx/access.log"):
        (tmp_path / name).write_text("a day")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "nginx")
    _empty_logs(str(tmp_path))
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["apt", "nginx"]
    assert (tmp_path / "nginx").stat().st_mode & 0o777 == 0o750
