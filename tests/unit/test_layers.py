"""The picture of the design holds: imports point down, no cycle, one importer of each library that must have one."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import amqp_rpc

PACKAGE = Path(amqp_rpc.__file__).parent

#: Every module and its layer; a folder stands for all that is in it. Whoever adds a module says here where it belongs.
LAYERS = {
    0: ["errors", "deadline", "forks", "outcome", "settings", "wording"],
    1: ["codec", "failures", "envelope", "topology", "delays", "records", "letters", "exchanges", "events"],
    2: [
        "policy",
        "schedules",
        "timetable",
        "registration",
        "subscription",
        "subscribing",
        "service",
        "merging",
        "signature",
        "pending",
        "context",
        "jobs",
        "dispatch",
        "task_dispatch",
        "task_jobs",
        "event_dispatch",
        "redelivery",
        "time_limits",
        "retry",
        "items",
        "ahead",
        "unfinished",
    ],
    3: [
        "leadership",
        "loop",
        "owner",
        "acks",
        "frames",
        "deliveries",
        "stream",
        "dialing",
        "transport",
        "channel",
        "connection",
        "steps",
        "delay_queues",
        "declared",
        "store",
        "sqlite_store",
        "redis_store",
    ],
    4: [
        "callbacks",
        "outbox",
        "tasks",
        "recorder",
        "begun",
        "enqueuing",
        "producer",
        "pipelining",
        "publishing",
        "publisher",
        "async_publisher",
        "async_producer",
        "async_operating",
        "task_forms",
        "results",
        "calls",
        "capacity",
        "forms",
        "caller",
        "requester",
        "inspection",
        "conversation",
        "browsing",
        "dead_letters",
        "settling",
        "arrivals",
        "taking",
        "receipts",
        "putting",
        "getting",
        "queues",
        "queueing",
        "operating",
        "presence",
        "silence",
        "verdicts",
        "handlers",
        "in_hand",
        "overruns",
        "sharing",
        "marking",
        "listening",
        "bindings_record",
        "subscribers",
        "consumers",
        "replies",
        "work",
        "clock",
        "clocks",
        "client",
        "server",
        "aio",
        "__init__",
    ],
    5: ["cli", "loading", "supervisor", "broker", "__main__"],
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}

#: Libraries that one module each hides from the others.
ONE_IMPORTER = {
    "msgpack": "codec",
    "tenacity": "retry",
    "pika": "connection",
    "cronsim": "schedules",
    "redis": "redis_store",
    "sqlite3": "sqlite_store",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """What a module imports when it runs, in full; what only type checkers read does not count."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
                for other in node.orelse:
                    self.visit(other)
            else:
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"{module}: imports are written in full"
            # `from amqp_rpc import codec` wants the module, `from amqp_rpc.codec import JSON` one of its names.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name.removeprefix("amqp_rpc.") in SOURCES else node.module for name in names)

    Visitor().visit(ast.parse(SOURCES[module].read_text()))
    return found


def own_imports(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    own = {name for name in imported(module) if name.partition(".")[0] == "amqp_rpc"}
    return {"__init__" if name == "amqp_rpc" else name.removeprefix("amqp_rpc.") for name in own}


def layer_of(module: str) -> int:
    return LAYER[module.partition(".")[0]]


IMPORTS = {module: own_imports(module) for module in SOURCES}


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_has_a_layer(module):
    assert module.partition(".")[0] in LAYER, f"say in LAYERS where {module} belongs"


def test_every_layer_names_modules_that_exist():
    assert set(LAYER) == {module.partition(".")[0] for module in SOURCES}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module):
    upward = {other for other in IMPORTS[module] if layer_of(other) > layer_of(module)}
    assert upward == set()


def test_there_is_no_import_cycle():
    assert list(graphlib.TopologicalSorter(IMPORTS).static_order())


@pytest.mark.parametrize(("library", "owner"), ONE_IMPORTER.items())
def test_one_module_imports(library, owner):
    importers = {m for m in SOURCES if any(name.partition(".")[0] == library for name in imported(m))}
    assert importers == {owner}


def test_only_the_command_line_imports_click():
    importers = {m.partition(".")[0] for m in SOURCES if any(name.partition(".")[0] == "click" for name in imported(m))}
    assert importers == {"cli"}


@pytest.mark.parametrize("module", [m for m in SOURCES if layer_of(m) <= 2])
def test_what_is_pure_imports_no_socket_and_no_event_loop(module):
    assert not imported(module) & {"socket", "selectors", "ssl", "subprocess"}


@pytest.mark.parametrize("module", SOURCES)
def test_no_module_is_named_for_nothing(module):
    assert not {"utils", "util", "helpers", "manager", "base", "common", "misc"} & set(module.split("."))
