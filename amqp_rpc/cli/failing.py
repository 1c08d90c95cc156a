"""From an error to one line on the terminal and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

from amqp_rpc import errors
from amqp_rpc.cli.exits import Exit
from amqp_rpc.service.loading import ImportFailed, ModuleMissing, ServiceMissing

#: The first class that fits gives the code.
_CODES: list[tuple[type[BaseException], Exit]] = [
    (errors.RemoteError, Exit.REMOTE_ERROR),
    (errors.AccessRefused, Exit.ACCESS_REFUSED),
    (errors.PublishRefused, Exit.REFUSED),
    (errors.BrokerError, Exit.NO_BROKER),
    (errors.NoServer, Exit.NO_SERVER),
    (errors.Unroutable, Exit.NO_SERVER),
    (errors.FunctionNotFound, Exit.NO_FUNCTION),
    (errors.InvalidArguments, Exit.BAD_ARGUMENTS),
    (errors.MaybeExecuted, Exit.MAYBE_EXECUTED),
    (errors.CallError, Exit.TIMEOUT),
    (errors.CodecError, Exit.BAD_ARGUMENTS),
    (ModuleMissing, Exit.NO_MODULE),
    (ImportFailed, Exit.IMPORT_FAILED),
    (ServiceMissing, Exit.NO_SERVICE),
    (errors.ConfigurationError, Exit.CONFIGURATION),
]


def exit_code(error: BaseException) -> Exit:
    """Return the exit code that an error has."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.ERROR)


def fail(message: str, code: Exit) -> NoReturn:
    """Print one line to standard error and exit."""
    line = " ".join(message.split())
    click.echo(f"amqp-rpc: {line}", err=True)
    sys.exit(code)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn our errors and Ctrl-C into one line and an exit code."""
    try:
        yield
    except errors.RemoteError as error:
        fail(f"{error.type}: {error.message}", exit_code(error))
    except errors.AmqpRpcError as error:
        # What to write in Python is an option here.
        fail(str(error).replace("wait_for_server=True", "--wait-for-server"), exit_code(error))
    except KeyboardInterrupt:
        fail("interrupted", Exit.INTERRUPTED)
