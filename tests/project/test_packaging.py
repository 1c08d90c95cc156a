"""What is published: the source distribution has all of the repository, and what an index shows leads somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def in_the_repository() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: nothing lists the files of the repository")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    # One that was deleted is listed until that is committed.
    return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


def test_the_source_distribution_includes_every_file_of_the_repository() -> None:
    # hatchling always adds these.
    included = ["/LICENSE", "/pyproject.toml", *PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    missing = [f for f in in_the_repository() if not any(f"/{f}/".startswith(f"{each}/") for each in included)]
    assert missing == []
    assert [each for each in included if not (ROOT / each.removeprefix("/")).exists()] == []


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution that is built and unpacked."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds it, is not installed: pip install hatchling")
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.iterdir()
    with tarfile.open(built) as archive:
        archive.extractall(folder, filter="data")
    (found,) = [each for each in folder.iterdir() if each.is_dir()]
    return found


def test_one_that_is_built_has_them(unpacked: Path) -> None:
    files = set(in_the_repository())
    built = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert files - built == set()
    assert built - files <= {"PKG-INFO"}
    assert "\nProject-URL: " in (unpacked / "PKG-INFO").read_text()
    # By name too: what is not in the repository would be missing from both.
    for needed in ("tests/fuzz/test_fuzz.py", "docs/architecture.md", "fuzz/corpus/decode.txt", "examples", ".ci/run"):
        assert (unpacked / needed).exists(), needed


#: The tests that read files of the repository when they are collected, and some that do not.
COLLECTED = ("tests/examples", "tests/fuzz", "tests/project", "tests/scripts")


def test_its_tests_are_collected(unpacked: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *COLLECTED]
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=unpacked, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    folders = "|".join(COLLECTED)
    assert found == {name for name in in_the_repository() if re.fullmatch(rf"({folders})/test_\w+\.py", name)}


def test_an_index_shows_no_link_that_leads_nowhere() -> None:
    shown = (ROOT / PROJECT["project"]["readme"]).read_text()
    links = [*re.findall(r"\]\(([^)]+)\)", shown), *PROJECT["project"]["urls"].values()]
    assert links
    assert all(re.fullmatch(r"https://[\w.-]+(/\S*)?", link) for link in links)
    # The page of a package does not link to itself.
    assert not [link for link in links if "pypi" in link]


@pytest.mark.parametrize("needed", [*PROJECT["project"]["dependencies"], "redis"])
def test_a_package_that_is_needed_has_bounds_and_a_reason(needed: str) -> None:
    name = re.split(r"[<>=]", needed)[0]
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines) if re.search(rf'"{name}>=[\d.]+,<[\d.]+"', line)]
    assert "#" in lines[number] or lines[number - 1].lstrip().startswith("#")
