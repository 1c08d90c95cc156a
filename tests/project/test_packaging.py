"""What is published: the source distribution has all of the repository, and what an index shows leads somewhere."""

from __future__ import annotations

import importlib.util
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


def test_one_that_is_built_has_them(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds it, is not installed: pip install hatchling")
    files = in_the_repository()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = tmp_path.iterdir()
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        (information,) = [name for name in archive.getnames() if name.endswith("/PKG-INFO")]
        file = archive.extractfile(information)
        assert file is not None
        metadata = file.read().decode()
    assert set(files) - names == set()
    assert names - set(files) <= {"PKG-INFO"}
    assert "\nProject-URL: " in metadata


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
