"""What the package says to people names only options that exist: public keywords, and flags of commands."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import amqp_rpc
from amqp_rpc.cli import main
from amqp_rpc.client.call import CallOptions
from amqp_rpc.client.event import EventOptions
from amqp_rpc.client.typing import MapOptions, Options
from amqp_rpc.message.settings import BrokerOptions
from amqp_rpc.ops.dead_letters import Filters
from amqp_rpc.service.policy import TaskOptions

PACKAGE = Path(amqp_rpc.__file__).parent
#: The modules, without those that run other programs and name these programs' flags.
MODULES = sorted(each for each in PACKAGE.rglob("*.py") if each.parent.name != "broker")
#: Names of others: of the standard library, and of functions in examples.
OTHERS = {"hours", "format", "amount", "note"}


def keywords() -> set[str]:
    """Return the names of all parameters and options of the public names."""
    found = {*CallOptions._fields}
    for options in (Options, MapOptions, EventOptions, TaskOptions, Filters, BrokerOptions):
        found |= options.__annotations__.keys()
    for public in (getattr(amqp_rpc, name) for name in amqp_rpc.__all__):
        members = vars(public).values() if isinstance(public, type) else ()
        for each in (public, *(getattr(member, "__func__", member) for member in members)):
            if callable(each):
                try:
                    found |= inspect.signature(each).parameters.keys()
                except (TypeError, ValueError):
                    continue
    return found


def flags(command: click.Command) -> set[str]:
    """Return the flags of a command, and of those below it."""
    found = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
    return found.union(*(flags(each) for each in getattr(command, "commands", {}).values()))


def texts(module: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines and the texts of a module that are no docstrings."""
    tree = ast.parse(module.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies: list[Any] = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


KEYWORDS, FLAGS = keywords() | OTHERS, flags(main)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_each_option_that_a_text_names_exists(module: Path) -> None:
    unknown = []
    for line, text in texts(module):
        named = {*re.findall(r"(?<![\w.%{/?&-])([a-z][a-z_]+)=(?!=)", text)} - KEYWORDS
        unknown += [(line, name) for name in named | ({*re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)} - FLAGS)]
    assert unknown == []


def test_the_options_that_are_looked_up_are_those_of_the_public_names() -> None:
    assert {"declare", "queue_type", "content_type", "headers", "timeout", "unique_for", "after"} <= KEYWORDS
    assert {"--content-type", "--no-tracebacks", "--queues"} <= FLAGS
    assert not {"durable_queue", "countdown"} & KEYWORDS
