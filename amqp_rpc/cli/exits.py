"""Exit codes, and how an error becomes one line and a code. Scripts may rely on the numbers."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import NoReturn

import click

from amqp_rpc import broker, errors
from amqp_rpc.message.text import lines, quoted
from amqp_rpc.service.loading import ImportFailed, NoSuchModule, NoSuchService


class Exit(IntEnum):
    """The exit codes of ``amqp-rpc``, by name."""

    OK = 0  #: success; serve: stopped and drained
    ERROR = 1  #: an error without a code of its own
    USAGE = 2  #: the command line is wrong, or a variable in its place

    NO_BROKER = 10  #: no connection to the broker, or the connection was lost
    ACCESS_REFUSED = 11  #: wrong user name, password, virtual host or permission
    NO_SERVER = 12  #: no such queue, or a queue without consumers
    TIMEOUT = 13  #: no answer in time, and the function may have run; dlq: --timeout is over
    MAYBE_EXECUTED = 14  #: the server died during the call; the function may have run
    REMOTE_ERROR = 15  #: the function ran and raised, or its result can't be sent or read
    BAD_ARGUMENTS = 16  #: the arguments do not fit the function, or are too large
    NO_FUNCTION = 17  #: the server has no such function
    REFUSED = 18  #: enqueue, publish, dlq replay: the broker refused the message: a full queue, an alarm

    NO_MODULE = 20  #: serve: there is no module of that name
    IMPORT_FAILED = 21  #: serve: the module exists and fails to import
    NO_SERVICE = 22  #: serve: the module has no service
    CONFIGURATION = 23  #: code is wrong; a queue or an exchange exists with other arguments

    BROKER_START_FAILED = 30  #: broker start: RabbitMQ did not start
    BROKER_NOT_AVAILABLE = 31  #: broker start: this machine has neither Docker nor rabbitmq-server
    BROKER_NOT_RUNNING = 32  #: broker status: no broker is running

    DRAIN_TIMEOUT = 40  #: serve: handlers were still running at the end of the drain timeout
    TIME_LIMIT = 41  #: serve: a task exceeded its time limit, and only the end of the process could end it

    NO_DEAD_LETTER = 50  #: dlq: no dead letter has that id, or several have
    NOT_CONFIRMED = 51  #: dlq drop: not confirmed; dlq replay: some letters name another queue, and stay

    INTERRUPTED = 130  #: a second Ctrl-C, or Ctrl-C with nothing to drain


#: The library's text about options in a URL of the broker, and its advice for Python.
_OPTIONS_OF_URL = re.compile(r"its options \(([^)]*)\) are not read; .*")
#: The first class that fits gives the code.
_CODES: list[tuple[type[BaseException] | tuple[type[BaseException], ...], Exit]] = [
    (errors.RemoteError, Exit.REMOTE_ERROR),
    ((errors.AccessRefused, errors.NotAuthorized), Exit.ACCESS_REFUSED),
    (errors.PublishRefused, Exit.REFUSED),
    (errors.BrokerTimeout, Exit.TIMEOUT),
    (broker.NotAvailable, Exit.BROKER_NOT_AVAILABLE),
    (broker.StartFailed, Exit.BROKER_START_FAILED),
    ((broker.InstallFailed, broker.ControlFailed, broker.CleanupRefused), Exit.ERROR),
    (errors.BrokerError, Exit.NO_BROKER),
    ((errors.NoServer, errors.Unroutable), Exit.NO_SERVER),
    (errors.FunctionNotFound, Exit.NO_FUNCTION),
    ((errors.InvalidArguments, errors.CodecError), Exit.BAD_ARGUMENTS),
    (errors.MaybeExecuted, Exit.MAYBE_EXECUTED),
    (errors.CallError, Exit.TIMEOUT),
    (NoSuchModule, Exit.NO_MODULE),
    (ImportFailed, Exit.IMPORT_FAILED),
    (NoSuchService, Exit.NO_SERVICE),
    (errors.DeclaredOtherwise, Exit.CONFIGURATION),
    # Of a value that an option can't have, wherever it is checked.
    (errors.ConfigurationError, Exit.USAGE),
]


def fail(message: str, code: Exit) -> NoReturn:
    """Print one line to standard error and exit."""
    click.echo(f"amqp-rpc: {quoted(' '.join(message.split()))}", err=True)
    sys.exit(code)


def code_of(error: BaseException) -> Exit:
    """Return the exit code of an error."""
    if isinstance(error, errors.CodecError) and error.may_have_run:
        return Exit.REMOTE_ERROR
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.ERROR)


def spoken(error: BaseException) -> str:
    """Return an error as text for a terminal, where the keywords of Python are flags."""
    if isinstance(error, errors.RemoteError):
        return quoted(f"{error.type}: {error.message}")
    return in_flags(str(error))


def in_flags(text: str) -> str:
    """Return a text of the library with the flags of the running command in the place of the keywords of Python."""
    context = click.get_current_context(silent=True)
    options = [] if context is None else [each for each in context.command.params if isinstance(each, click.Option)]
    # The URL of the store of results is a variable for every command.
    flags = {"results": "AMQP_RPC_RESULTS"} | {each.name: each.opts[0] for each in options if each.name}

    def flag(match: re.Match[str]) -> str:
        name, equals, value = match.groups()
        # "queue" is an English word too: it needs its "=". "unique_for" does not.
        if name not in flags or not (equals or "_" in name or text[match.end() :].startswith(" must be ")):
            return match.group()
        if equals and text.startswith("'", match.end()):
            return f"{flags[name]} "
        return flags[name] if not value or value == "True" else f"{flags[name]} {value}"

    text = text.replace("exchange=Exchange(name, kind, durable=…)", "--exchange, --type and --transient")
    text = re.sub(r"headers=\{[^}]*\}", "--header NAME=VALUE", text)
    if options_of_url := _OPTIONS_OF_URL.search(text):
        names = options_of_url[1].replace("=", "")
        heard = "; --heartbeat of serve and listen sets that" if "heartbeat" in names else ""
        return _OPTIONS_OF_URL.sub(f"its options ({names}) are not read{heard}", text)
    if "max_message_size" not in flags:
        text = text.replace(" (max_message_size)", "")
    # A service declares, and no flag does.
    return re.sub(r"(?<![\w.'\"-])(?<!declare it )([a-z_]+)(?:(=)(\w*)|(?=[ )]))", flag, text)


def fail_with(error: BaseException, *, traceback: bool = False) -> NoReturn:
    """Print an error as one line and exit with its code; with ``traceback``, print the remote traceback before it."""
    if traceback and isinstance(error, errors.RemoteError) and error.traceback:
        click.echo(lines(error.traceback, "  "), err=True)
    fail(spoken(error), code_of(error))


@contextlib.contextmanager
def one_line_errors(*, of_code: bool = False) -> Iterator[None]:
    """Turn errors and Ctrl-C into one line and an exit code; ``of_code``: what is wrong is a user's code."""
    try:
        yield
    except errors.AmqpRpcError as error:
        code = code_of(error)
        fail(spoken(error), Exit.CONFIGURATION if of_code and code is Exit.USAGE else code)
    except OSError as error:
        # The reader of the output has gone, or its disk is full: `main` ends quietly.
        if error.errno in (errno.EPIPE, errno.ENOSPC):
            raise
        fail_with(error)
    except KeyboardInterrupt:
        fail("interrupted", Exit.INTERRUPTED)
