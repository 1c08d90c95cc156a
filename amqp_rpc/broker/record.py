"""What `start` started and how to stop it: one small file per user. It starts and stops nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from amqp_rpc.broker.ports import AMQP_PORT

Way = Literal["docker", "private node"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One broker for development that was started, or that was being started when something went wrong."""

    way: Way
    port: int
    version: str = ""  #: empty while it starts
    name: str = ""  #: the node's name, or the compose project's
    folder: str = ""  #: the node's folder
    port_mapper: int = 0  #: the node's
    pid: int = 0  #: the node's

    @property
    def url(self) -> str:
        """Its AMQP URL."""
        return f"amqp://guest:guest@localhost:{self.port}/"

    @property
    def has_default_port(self) -> bool:
        """Whether clients find it without being told a URL."""
        return self.port == AMQP_PORT


def state_folder() -> Path:
    """Where the record is: ``$XDG_STATE_HOME/amqp-rpc``, by default ``~/.local/state/amqp-rpc``."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "amqp-rpc"


def read() -> Record | None:
    """Return what is recorded; ``None`` where nothing is, or nothing that can be read."""
    try:
        entry = Record(**json.loads(_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if entry.way == "docker" and entry.name:
        return entry
    # What is recorded is stopped and removed: nothing that may be somebody else's folder.
    return entry if entry.way == "private node" and entry.name and Path(entry.folder).is_absolute() else None


def write(record: Record) -> None:
    """Record this one. A crash in between leaves the old one or this one, never half of it."""
    new = _path().with_suffix(".new")
    new.write_text(json.dumps(asdict(record), indent=2) + "\n")
    new.replace(_path())


def forget() -> None:
    """Record that there is none."""
    _path().unlink(missing_ok=True)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one start or stop at a time of this user go on; the others wait for it."""
    state_folder().mkdir(parents=True, exist_ok=True)
    with (state_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _path() -> Path:
    return state_folder() / "broker.json"
