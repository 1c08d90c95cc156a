"""The documents show code that exists: every snippet is a file that a test runs, and every link leads somewhere."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import amqp_rpc
from scripts import threats

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/calls.md",
        "docs/tasks.md",
        "docs/events.md",
        "docs/testing.md",
        "docs/security.md",
        "docs/package.md",
    ],
)
def test_every_python_snippet_is_an_examples_code(document: str) -> None:
    sources = [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        assert any(snippet in source for source in sources), snippet


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_index_of_the_documents_links_every_one() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for document in (ROOT / "docs").rglob("*.md"):
        link = f"({document.relative_to(ROOT / 'docs')})"
        assert document.name == "README.md" or link in index, f"docs/README.md needs a link to {link}"


def test_every_anchor_of_a_link_is_a_heading() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", document.read_text()):
            if not target.startswith("http"):
                linked = (document.parent / target) if target else document
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, (document, target, anchor)


def test_the_readme_and_the_changelog_name_the_version() -> None:
    assert f"amqp-rpc {amqp_rpc.__version__}" in (ROOT / "README.md").read_text()
    assert f"## {amqp_rpc.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_row_of_the_table_of_failures_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\|.*\]\(([^)]+)\) `(test_\w+)` \|$", (ROOT / "docs" / "failures.md").read_text(), re.MULTILINE)
    assert len(rows) >= 20
    for file, test in rows:
        assert f"def {test}(" in (ROOT / "docs" / file).resolve().read_text(), test


def test_every_row_of_the_tables_of_threats_names_tests_that_exist() -> None:
    table = threats.rows(threats.PAGE.read_text())
    assert len(table) >= 40
    assert all(table), "a threat without a test"
    for test in (test for row in table for test in row):
        file, *classes, name = test.split("::")
        body: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
        for wanted in classes:
            (body,) = [each.body for each in body if isinstance(each, ast.ClassDef) and each.name == wanted]
        assert name in [each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)], test


def test_every_name_in_the_page_of_the_architecture_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = re.findall(r"`((?!tests/)[a-z]+/\w+)((?:\.\w+)*)`", page)
    assert len(names) >= 50
    for module, path in names:
        found: object = importlib.import_module(f"amqp_rpc.{module.replace('/', '.')}")
        for name in path.split(".")[1:]:
            found = getattr(found, name)
