"""The repository keeps its own promises: pinned requirements, true documents, one version."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skerry

REPOSITORY = Path(__file__).resolve().parents[2]


def text(name: str) -> str:
    return (REPOSITORY / name).read_text()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))


def entries(requirements: str) -> list[str]:
    """A requirements file's lines, continuation lines joined, comments left out."""
    joined = requirements.replace("\\\n", " ")
    lines = (line.strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["requirements/runtime.txt", "requirements/dev.txt"])
class TestRequirements:
    def test_every_requirement_is_pinned_with_a_hash(self, name: str) -> None:
        found = entries(text(name))
        assert found
        for entry in found:
            assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+ ", entry), entry
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry

    def test_no_registry_is_named(self, name: str) -> None:
        assert "://" not in text(name)
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text(name))


def test_development_holds_the_same_versions_as_runtime() -> None:
    def versions(name: str) -> dict[str, str]:
        pairs = (entry.split()[0].split("==") for entry in entries(text(name)))
        return {package.lower(): version for package, version in pairs}

    development = versions("requirements/dev.txt")
    for package, version in versions("requirements/runtime.txt").items():
        assert development.get(package) == version, package


def test_declared_dependencies_are_pinned() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    pinned = {entry.split("==")[0].lower() for entry in entries(text("requirements/runtime.txt"))}
    declared = {re.split(r"[<>=!~\[; ]", wish)[0].lower() for wish in project["dependencies"]}
    assert declared <= pinned


def test_one_version_everywhere() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert skerry.__version__ == version
    assert re.search(rf"^## {re.escape(version)}\b", text("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md", ".ci/run"])
def test_documents_name_only_targets_that_exist(name: str) -> None:
    named = set(re.findall(r"(?:^|[`$ ])make ([a-z][a-z-]*)", text(name), re.MULTILINE))
    assert named, f"{name} says nothing of make"
    assert named <= make_targets()


@pytest.mark.parametrize("name", ["README.md", *map(str, Path(REPOSITORY, "docs").glob("*.md"))])
def test_links_inside_the_repository_lead_somewhere(name: str) -> None:
    page = REPOSITORY / name
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in link and not link.startswith("mailto:"):
            assert (page.parent / link).exists(), f"{name} links to {link}"


def test_the_command_reference_is_made_from_the_code() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "skerry.cli.reference"], capture_output=True, text=True, check=True
    )
    assert made.stdout == text("docs/cli.md"), "run `make docs`"


def test_benchmarks_are_all_documented() -> None:
    from bench.__main__ import BENCHMARKS

    page = text("docs/benchmarks.md")
    assert [name for name in BENCHMARKS if f"`{name}`" not in page] == []


def test_license_is_the_declared_one() -> None:
    assert "Apache License" in text("LICENSE")
    assert tomllib.loads(text("pyproject.toml"))["project"]["license"]["text"] == "Apache-2.0"


def test_every_python_file_says_what_it_is() -> None:
    """Each module opens with a docstring: the tree is read by people."""
    silent = []
    for folder in ("src", "bench", "contrib"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            first = path.read_text().lstrip()
            if not first.startswith(('"""', 'r"""')):
                silent.append(str(path.relative_to(REPOSITORY)))
    assert silent == []
