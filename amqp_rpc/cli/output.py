"""The output of commands: columns and local times for people, JSON for programs, and the log of `serve`."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import queue
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

import click

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import codec
from amqp_rpc.message.text import quoted
from amqp_rpc.ops.dead_letters import Progress

#: The width of the last column, and then of any column, in a terminal that is too narrow.
_NARROWEST, _CUT_TO = 20, 8
#: Characters of a bar, and the seconds between two bars, and between two lines where there is no terminal.
_BAR, _BAR_EVERY, _LINE_EVERY = 30, 0.3, 5.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"


def columns(titles: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Return rows in columns under their titles, cut to fit the width of a line, if there is one.

    The last column is cut first, and then the widest ones.
    Numbers are aligned to the right. Line breaks in a cell become spaces, and what can't be printed is escaped.
    """
    texts = [[quoted(" ".join(str(cell).split())) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(titles), *texts]) for i in range(len(titles))]
    if width is not None:
        room = width - 2 * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(_NARROWEST, room - sum(widths[:-1])))
        while sum(widths) > room and max(widths) > _CUT_TO:
            widths[widths.index(max(widths))] -= 1
    numbers = [bool(rows) and all(isinstance(row[i], int) or row[i] == "-" for row in rows) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        placed = [
            _cut(cell, size).rjust(size) if number else _cut(cell, size).ljust(size)
            for cell, size, number in zip(cells, widths, numbers, strict=True)
        ]
        return "  ".join(placed).rstrip()

    return "\n".join(line(row) for row in [list(titles), *texts])


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def as_json(value: object) -> str:
    """Return one line of JSON; times are ISO 8601."""
    return _harmless(json.dumps(value, ensure_ascii=False, default=lambda other: other.isoformat()))


def decoded_as_json(value: object) -> str:
    """Return a decoded message as JSON, in the types and form that `codec` gives them."""
    # The JSON of a msgpack body may be longer than the size limit of messages.
    return _harmless(codec.encode(value, codec.JSON, limit=2**62).decode())


def _harmless(text: str) -> str:
    """Return JSON in which what can't be printed is escaped as JSON has it, so that it can't control a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def local(time: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    if time is None:
        return "-"
    # The first and the last days that Python knows are in no other zone.
    with contextlib.suppress(OverflowError):
        time = time.astimezone()
    return time.strftime("%Y-%m-%d %H:%M:%S")


class Reports:
    """Prints how far long work has come: ids on standard output, and a bar, or a line now and then, on standard error.

    It is the ``progress`` of `DeadLetters`, in a ``with`` block. A thread of its own prints, so that a slow reader does
    not hold up the connection.

    Args:
        verb: The letters' fate: read, replayed, dropped.
        ids: Whether to print the ids of those that are done.
    """

    def __init__(self, verb: str, *, ids: bool = False) -> None:
        self._verb, self._ids = verb, ids
        #: The number of done letters, and of all letters. `stopped` ends the work after what is in flight.
        self.done: int = 0
        self.total: int = 0
        self.stopped: bool = False
        self._failure: OSError | None = None
        self._news: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._printer = threading.Thread(target=self._print, daemon=True)

    def __enter__(self) -> Self:
        self._printer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._news.put(None)
        self._printer.join()
        if self._failure is not None:
            raise self._failure

    def __call__(self, progress: Progress) -> bool:
        """Take a report; return False if the work is to end."""
        self._news.put(progress)
        self.done += len(progress.ids)
        self.total = progress.total
        return not self.stopped

    def _print(self) -> None:
        terminal = sys.stderr.isatty()
        every, shown, drawn = (_BAR_EVERY if terminal else _LINE_EVERY), time.monotonic(), False
        while (progress := self._news.get()) is not None:
            if progress.ids and self._ids:
                if drawn:
                    click.echo("\r\033[K", nl=False, err=True)
                self._echo("\n".join(map(quoted, progress.ids)))
                drawn = False
            if time.monotonic() - shown < every and not drawn:
                continue
            shown, drawn = time.monotonic(), terminal
            where = f"{progress.seen} of {progress.total}"
            if terminal:
                full = round(_BAR * progress.seen / max(progress.seen, progress.total))
                click.echo(f"\r{self._verb} [{'#' * full:-<{_BAR}}] {where}\033[K", nl=False, err=True)
            else:
                click.echo(f"{self._verb}: {where}", err=True)
        if drawn:
            click.echo("\r\033[K", nl=False, err=True)

    def _echo(self, text: str) -> None:
        try:
            if self._failure is None:
                click.echo(text)
        # The reader has gone, or the disk is full: the main thread raises it.
        except OSError as error:
            self._failure, self.stopped = error, True


def show_warnings() -> None:
    """Print the library's warnings on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("amqp-rpc: %(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger("amqp_rpc").addHandler(handler)


def set_up_log(level: str | None, config: str | None) -> None:
    """Set up the log as far as the program has not: call it after the program's modules were imported.

    Args:
        level: The lowest level of our loggers, and, if the program has set up nothing, of all loggers; None for the
            program's level, or WARNING.
        config: A file for `logging.config`: JSON if its name ends with ``.json``, otherwise INI.

    Raises:
        ConfigurationError: The file can't be read or used.
    """
    root, ours = logging.getLogger(), logging.getLogger("amqp_rpc")
    if config is not None:
        _configure(config)
    if not root.handlers and config is None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
        handler.addFilter(lambda record: not _handled(record, handler))
        root.addHandler(handler)
        if level is not None:
            root.setLevel(level)
    if level is not None:
        ours.setLevel(level)
    # By default dictConfig and fileConfig disable all existing loggers.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "amqp_rpc" and isinstance(logger, logging.Logger):
            logger.disabled = False
    pika = logging.getLogger("pika")
    if pika.level == logging.NOTSET:
        pika.setLevel(logging.WARNING)


def _configure(path: str) -> None:
    try:
        if path.endswith(".json"):
            logging.config.dictConfig({"disable_existing_loggers": False} | json.loads(Path(path).read_text()))
        else:
            # It reports a file that is not there as one without sections.
            Path(path).read_bytes()
            logging.config.fileConfig(path, disable_existing_loggers=False)
    # Whatever the file names is imported and called.
    except Exception as error:
        why = "" if error.__cause__ is None else f": {error.__cause__}"
        raise ConfigurationError(f"--log-config {path}: {type(error).__name__}: {error}{why}") from error


def _handled(record: logging.LogRecord, handler: logging.Handler) -> bool:
    """Return whether another handler gets a record too."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(each is not handler and not isinstance(each, logging.NullHandler) for each in logger.handlers):
            return True
        logger = logger.parent
    return False


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
