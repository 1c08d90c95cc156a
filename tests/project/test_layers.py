"""The design holds: packages import in one direction, without a cycle, and each library has one importer."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

import amqp_rpc

PACKAGE = Path(amqp_rpc.__file__).parent

#: The packages that each package may import. `client` and `server` never meet.
MAY_IMPORT = {
    "errors": set(),
    "message": {"errors"},
    "service": {"errors", "message"},
    "amqp": {"errors", "message"},
    "results": {"errors", "message"},
    "ops": {"errors", "message", "amqp"},
    "queues": {"errors", "message", "service", "amqp"},
    "client": {"errors", "message", "service", "amqp", "results", "ops", "queues"},
    "server": {"errors", "message", "service", "amqp", "results"},
    "broker": {"errors", "message"},
    "__init__": {"errors", "message", "service", "amqp", "results", "ops", "queues", "client", "server"},
    "cli": {
        "errors",
        "message",
        "service",
        "amqp",
        "results",
        "ops",
        "queues",
        "client",
        "server",
        "broker",
        "__init__",
    },
    "__main__": {"cli"},
}

#: Imports that are still to be turned round; each is a defect.
TO_BE_MENDED: set[tuple[str, str]] = set()

#: Libraries that one module each hides from the others.
ONE_IMPORTER = {
    "msgpack": {"message.codec"},
    "tenacity": {"results.sqlite"},
    "pika": {"amqp.connection"},
    "cronsim": {"service.schedules"},
    "redis": {"results.redis"},
    "sqlite3": {"results.sqlite"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """Return the imports of a module, also those for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name.removeprefix("amqp_rpc.") in SOURCES else node.module for name in names)
    return found


def own_imports(module: str) -> set[str]:
    own = {name for name in imported(module) if name.partition(".")[0] == "amqp_rpc"}
    return {"__init__" if name == "amqp_rpc" else name.removeprefix("amqp_rpc.") for name in own} - {module}


IMPORTS = {module: own_imports(module) for module in SOURCES}
LIBRARIES = {module: {name.partition(".")[0] for name in imported(module)} for module in SOURCES}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_packages_import_in_one_direction():
    edges = {(m, o) for m, others in IMPORTS.items() for o in others if package_of(m) != package_of(o)}
    wrong = {(m, o) for m, o in edges if package_of(o) not in MAY_IMPORT[package_of(m)]}
    assert wrong == TO_BE_MENDED


def test_there_is_no_import_cycle():
    # A package's own __init__ is imported with each of its modules, and may name them.
    modules = {m: {o for o in others if "." in o or o == "errors"} for m, others in IMPORTS.items()}
    assert list(graphlib.TopologicalSorter(modules).static_order())


@pytest.mark.parametrize(("library", "importers"), ONE_IMPORTER.items())
def test_one_module_imports(library: str, importers: set[str]):
    assert {m for m, libraries in LIBRARIES.items() if library in libraries} == importers


#: The functions that make properties, and, with the modules that may call it, the one that copies others: those of a
#: message that is ours.
MAKERS = {"Properties", "republished", "_kept", "request_properties", "task_properties", "event_properties"}
COPIES = {"copied": {"message.envelope", "server.invoke"}}
#: The properties of a received message that ours may have, for its sender: they have no meaning to the broker.
ECHOED = {"server.invoke": {"correlation_id", "content_type"}}
#: pika's properties are made of ours; a request's id is not read from a delivery.
TO_RAW = {"amqp.connection"}


def called(node: ast.AST) -> str:
    """Return the name of the function that an expression calls; an empty text for another expression."""
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def names_in(node: ast.AST) -> set[str]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def made_in(function: ast.AST) -> dict[str, set[str]]:
    """Return the names that a function assigns, with the functions that make their values."""
    made: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    made.setdefault(target.id, set()).add(called(node.value))
    return made


@pytest.mark.parametrize(
    "module", [name for name, path in SOURCES.items() if re.search(r"Properties|Message\(|copied\(", path.read_text())]
)
def test_what_was_received_is_published_again_by_one_function_alone(module: str):
    """`envelope.republished`: all else would hand on what a stranger has written for the broker to act on."""
    whole = ast.walk(ast.parse(SOURCES[module].read_text()))
    functions = [each for each in whole if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node, made in ((node, made_in(function)) for function in functions for node in ast.walk(function)):
        function, line = called(node), getattr(node, "lineno", 0)
        if function in COPIES:
            assert module in COPIES[function], f"{module}:{line} copies properties: use republished()"
        if function == "Properties" and module not in {"message.envelope", *TO_RAW}:
            for keyword in node.keywords:
                read = names_in(keyword.value) & {"delivery", "request", "properties"}
                assert not read or keyword.arg in ECHOED.get(module, set()), f"{module}:{line} copies {keyword.arg}"
        if function == "Message" and len(node.args) > 1:
            given = node.args[1]
            makers = made.get(given.id, {""}) if isinstance(given, ast.Name) else {called(given)}
            assert makers <= MAKERS | COPIES.keys(), f"{module}:{line} publishes properties of an unknown origin"
        if isinstance(node, ast.keyword) and node.arg == "properties" and module != "message.envelope":
            assert called(node.value) in {"", *MAKERS}, f"{module}:{line} changes a message's properties"


def test_only_the_command_line_imports_click():
    assert {package_of(m) for m, libraries in LIBRARIES.items() if "click" in libraries} == {"cli"}


def test_messages_and_services_import_no_socket_and_no_event_loop():
    pure = {m for m in SOURCES if package_of(m) in {"message", "service"}}
    assert {m for m in pure if LIBRARIES[m] & {"socket", "selectors", "ssl", "subprocess"}} == set()


def test_no_module_is_named_for_nothing():
    assert not {"utils", "util", "helpers", "manager", "base", "common", "misc"} & {
        part for module in SOURCES for part in module.split(".")
    }
