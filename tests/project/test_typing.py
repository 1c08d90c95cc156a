"""Types of calls: mypy accepts typing/accepts.py, and refuses exactly the marked lines of rejects.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("tests", "typing")


@pytest.fixture(scope="module")
def found() -> dict[str, set[tuple[int, str]]]:
    """Return the lines and codes of mypy's errors, by file."""
    files = [str(FOLDER / name) for name in ("accepts.py", "rejects.py")]
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", *files]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    errors: dict[str, set[tuple[int, str]]] = {"accepts.py": set(), "rejects.py": set()}
    for line in ended.stdout.splitlines():
        if match := re.fullmatch(r"(.+?):(\d+): error: .*\[([\w-]+)\]", line):
            errors.setdefault(Path(match[1]).name, set()).add((int(match[2]), match[3]))
    assert ended.returncode in {0, 1}, ended.stdout + ended.stderr
    assert errors["rejects.py"], ended.stdout + ended.stderr
    return errors


@pytest.mark.slow(seconds=10)
def test_what_is_right_is_accepted(found):
    assert found["accepts.py"] == set()


@pytest.mark.slow(seconds=10)
def test_what_is_wrong_is_refused_and_nothing_else(found):
    lines = (ROOT / FOLDER / "rejects.py").read_text().splitlines()
    marks = {
        (number, code)
        for number, line in enumerate(lines, 1)
        if (match := re.search(r"# error: ([\w, -]+)$", line))
        for code in match[1].split(", ")
    }
    assert marks == found["rejects.py"]


#: It is pyright, and brings the Node.js that it needs.
PYRIGHT = shutil.which("basedpyright", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.mark.slow(seconds=20)
@pytest.mark.skipif(PYRIGHT is None, reason="basedpyright is not installed: pip install basedpyright")
def test_type_checkers_know_nearly_all_types_without_inference(tmp_path: Path) -> None:
    # Not from the top of the checkout, where it would read the configuration of its own.
    ended = subprocess.run(
        [str(PYRIGHT), "--pythonpath", sys.executable, "--verifytypes", "amqp_rpc", "--outputjson"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    report = json.loads(ended.stdout[ended.stdout.index("{") :])["typeCompleteness"]
    unknown = [each["name"] for each in report["symbols"] if each["isExported"] and not each["isTypeKnown"]]
    assert report["completenessScore"] >= 0.98, unknown
