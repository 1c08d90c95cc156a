"""Services by name: import the module of ``services.fib`` or ``package.module:attribute``."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.service.service import Service

#: The folders of the standard library and of installed packages.
_LIBRARIES = tuple({sysconfig.get_path(each) for each in ("stdlib", "platstdlib", "purelib", "platlib")})


class NoSuchModule(ConfigurationError):
    """There is no module of that name."""


class ImportFailed(ConfigurationError):
    """The module exists, and importing it raises."""


class NoSuchService(ConfigurationError):
    """The module has no such service."""


def load(target: str) -> list[Service]:
    """Return the services that a target names.

    Args:
        target: ``package.module`` for a module's ``service``, else its only one; ``package.module:attribute`` for one
            of several. Python looks into the current folder first.

    Raises:
        NoSuchModule: There is no such module.
        ImportFailed: Importing it raises; the message has the error and its place.
        NoSuchService: It has no service, or several of which none is named ``service``.
        ConfigurationError: A service in it is wrong: see `Service.rpc`.
    """
    name, colon, attribute = target.partition(":")
    if not all(part.isidentifier() for part in name.split(".")):
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise NoSuchModule(f"{target!r} does not name a module; write it as Python imports it: {dotted}")
    module = _import(name)
    return [_attribute(module, attribute)] if colon else [_only(module)]


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            part = "" if error.name == name else f": {error.name!r} is missing"
            raise NoSuchModule(
                f"there is no module {name!r} in {here}, nor where Python looks for modules{part}"
            ) from error
        raise ImportFailed(_failure(name, error)) from error
    except ConfigurationError:
        raise
    except KeyboardInterrupt:
        raise
    # A module may raise anything, sys.exit() included.
    except BaseException as error:
        raise ImportFailed(_failure(name, error)) from error


def _failure(name: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        # The user's own line, rather than one of the libraries that it calls.
        ours = [f for f in frames if not f.filename.startswith(("<", *_LIBRARIES))]
        files = ours or [f for f in frames if not f.filename.startswith("<") and "importlib" not in f.filename]
        where = f"{files[-1].filename}:{files[-1].lineno}" if files else "unknown place"
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"module {name!r} fails to import: {type(error).__name__}: {reason} ({where})"


def _attribute(module: ModuleType, attribute: str) -> Service:
    found = getattr(module, attribute, None)
    if not isinstance(found, Service):
        what = "there is no such name in it" if found is None else f"that is {type(found).__name__}, not a Service"
        raise NoSuchService(f"{module.__name__}:{attribute} is no service: {what}{_listed(_services(module))}")
    return found


def _only(module: ModuleType) -> Service:
    found = _services(module)
    if "service" in found:
        return found["service"]
    if not found:
        raise NoSuchService(
            f"module {module.__name__!r} has no service; write `service = Service()` in it and decorate its functions "
            "with @service.rpc"
        )
    if len({id(service) for service in found.values()}) > 1:
        raise NoSuchService(f"module {module.__name__!r} has several services{_listed(found)}; name one: module:name")
    return next(iter(found.values()))


def _services(module: ModuleType) -> dict[str, Service]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Service)}


def _listed(found: dict[str, Service]) -> str:
    return f" (it has: {', '.join(found)})" if found else ""
