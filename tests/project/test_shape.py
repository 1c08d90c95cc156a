"""The package stays as small and as plain as it was made: each figure that ``make shape`` prints has a bound."""

from __future__ import annotations

import ast
import re

import pytest

from scripts import prose
from scripts.shape import ROOT, Shape, figures

#: The most that each figure may be.
AT_MOST = {
    "entries in amqp_rpc/": 13,
    "modules in the fullest package": 12,
    # Moves with the behaviour: 19 310 when the tree was made, and what each later capability needs beside it.
    "lines": 28_500,
    "lines of the longest file": 650,
    "Callable parameters": 90,
    "one-importer modules, no seam": 0,
    "classes named by a gerund": 0,
    "mixins": 0,
    "protocols with one implementer": 0,
    "most overloads of a method": 4,
    "import cycles": 0,
    "modules with a function take": 3,
    "odd lines of prose per 100": 1.0,
}


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[str, str]]:
    found = figures(Shape(), prose.read(*(ROOT / place for place in prose.PLACES)))
    return {name: (value, where) for name, value, where in found}


@pytest.mark.parametrize("name", AT_MOST)
def test_a_figure_is_within_its_bound(measured: dict[str, tuple[str, str]], name: str) -> None:
    value, where = measured[name]
    assert float(value) <= AT_MOST[name], where


def test_each_figure_has_a_bound(measured: dict[str, tuple[str, str]]) -> None:
    assert measured.keys() == AT_MOST.keys()


def test_a_file_of_more_than_600_lines_says_why_it_is_one_thing() -> None:
    shape = Shape()
    long = [module for module, lines in shape.lines.items() if lines > 600]
    assert [each for each in long if "longer than other" not in (ast.get_docstring(shape.trees[each]) or "")] == []


def test_no_test_reaches_for_a_private_attribute_through_another() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"\._[a-z]\w*\._[a-z]", line)
    ]
    assert found == []
