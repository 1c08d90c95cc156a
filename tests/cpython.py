"""CPython's own tests, from the interpreter's package `test`, for what has a standard library's interface here.

A test that can't pass is listed where it is used, with the reason: each is a documented difference.
"""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest


def cpythons(*names: str) -> ModuleType | None:
    """Return the first of these modules of the package `test` that this interpreter has; None where it has none.

    Many distributions leave the package out.
    """
    for name in names:
        try:
            return importlib.import_module(f"test.{name}")
        except ImportError:
            continue
        # A module of CPython's that this platform can't run.
        except unittest.SkipTest:
            continue
    return None


def names_of(
    module: ModuleType | None, mixin: str, differences: Mapping[str, str], *, without: str = "", why: str = ""
) -> list[Any]:
    """Return the names of the tests of a class, for ``parametrize``; those that differ are expected to fail.

    Those with the word ``without`` in their names are skipped: what they are about is not here.
    """
    if module is None:
        absent = "this interpreter has no such module in its package 'test'"
        return [pytest.param("absent", marks=pytest.mark.skip(reason=absent))]
    names = [name for name in dir(getattr(module, mixin)) if name.startswith("test_")]
    assert names

    def mark(name: str) -> Any:
        if name in differences:
            return pytest.param(name, marks=pytest.mark.xfail(reason=differences[name], strict=True))
        return pytest.param(name, marks=pytest.mark.skip(reason=why)) if without and without in name else name

    return [mark(name) for name in names]


def run(module: ModuleType | None, mixin: str, name: str, **attributes: Any) -> None:
    """Run one test of CPython's on an object with these attributes, which its ``setUp`` would make."""
    assert module is not None
    case = type(mixin, (getattr(module, mixin), unittest.TestCase), {"setUp": lambda _self: None})(name)
    vars(case).update(attributes)
    getattr(case, name)()
