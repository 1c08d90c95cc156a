"""docs/architecture.md shows the packages as they are."""

from __future__ import annotations

import re

from scripts.picture import PAGE, floors, listing, package_imports, page, picture
from scripts.shape import Shape


def test_the_page_has_the_picture_and_the_list_of_the_present_tree() -> None:
    text = PAGE.read_text()
    assert page(text, Shape()) == text, "make it again: python -m scripts.picture"


def test_each_package_and_each_module_is_in_the_list() -> None:
    shape = Shape()
    text = listing(shape)
    for module in shape.sources:
        package, _, name = module.partition(".")
        assert package in {"__init__", "__main__"} or f"**{package}**" in text
        assert not name or f"| `{name}` |" in text


def test_each_package_is_in_the_picture_above_those_that_it_imports() -> None:
    shape = Shape()
    imports = package_imports(shape)
    order = [package for floor in floors(imports) for package in floor]
    assert sorted(order) == sorted(imports)
    for package, others in imports.items():
        assert package in picture(shape)
        assert all(order.index(package) < order.index(other) for other in others)


def test_each_module_that_the_words_name_exists() -> None:
    shape = Shape()
    words = re.findall(r"`(\w+/\w+)`", PAGE.read_text())
    assert words
    assert {word for word in words if word.replace("/", ".") not in shape.sources} == set()
