"""`scripts.audit`: what it says of each answer of pip-audit, for which a program stands here."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from scripts.audit import audit, needed

ROOT = Path(__file__).resolve().parents[2]


def said(*dependencies: dict[str, Any], code: int = 0) -> list[str]:
    report = json.dumps({"dependencies": dependencies, "fixes": []})
    return [sys.executable, "-c", f"import sys; print({report!r}); sys.exit({code})"]


NOT_KNOWN = {"name": "b", "skip_reason": "Dependency not found: b (1.0)"}
CLEAN = {"name": "a", "version": "1.0", "vulns": []}
BAD = {"name": "a", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"], "aliases": []}]}


def test_a_known_vulnerability_fails_and_says_which_version_has_none() -> None:
    assert audit({"a": "1.0"}, said(BAD, CLEAN, code=1)) == (False, "audit: a 1.0: PYSEC-1, mended in 1.1, 2.0")


def test_none_is_said_with_the_number_of_packages_that_are_known() -> None:
    assert audit({}, said(CLEAN)) == (True, "audit: no known vulnerability in 1 packages")
    good, text = audit({}, said(CLEAN, NOT_KNOWN))
    assert (good, text) == (True, "audit: no known vulnerability in 1 packages; 1 others are not known there")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (said(NOT_KNOWN), "knows none of 1 packages"),
        ([sys.executable, "-c", "raise ConnectionError('no route')"], "can't be reached from here"),
        ([sys.executable, "-c", "print('[]')"], "can't be reached from here"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not answer within 0.5 s"),
    ],
    ids=["a mirror", "no network", "another answer", "silence"],
)
def test_a_database_that_does_not_answer_fails_nothing_and_is_one_line(command: list[str], why: str) -> None:
    good, text = audit({"a": "1.0"}, command, seconds=0.5 if "sleep" in command[-1] else 15.0)
    assert good
    assert text.startswith("audit: skipped, the database of vulnerabilities ")
    assert text.endswith(why)
    assert "\n" not in text


def test_it_asks_for_the_installed_versions_of_what_the_package_needs() -> None:
    found = needed()
    assert found.keys() >= {"pika", "msgpack", "msgspec", "tenacity", "click", "cronsim", "redis"}
    assert found["pika"] == metadata.version("pika")
    # Tools of developers are not what the package needs.
    assert not found.keys() & {"pytest", "mypy", "ruff", "numpy"}


def test_pip_audit_gets_one_line_for_each_package(tmp_path: Path) -> None:
    program = "import pathlib, sys; print(pathlib.Path(sys.argv[-1]).read_text(), file=open('asked', 'w'))"
    audit({"b": "2", "a": "1"}, [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {program}"])
    assert (tmp_path / "asked").read_text().split() == ["a==1", "b==2"]


def test_continuous_integration_asks() -> None:
    assert "make audit" in (ROOT / ".ci" / "run").read_text()
