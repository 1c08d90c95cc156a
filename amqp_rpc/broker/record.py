"""The broker that `start` started, in one small file per user, from which a later process can stop it.

It is a seam: all that outlives the process of `start`. It starts and stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from amqp_rpc.broker.ports import AMQP_PORT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # nothing keeps two starts apart there

Way = Literal["docker", "private node"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A broker that was started, or whose start was cut short."""

    way: Way
    port: int
    version: str = ""  #: empty until it has started
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
        """Clients find it without a URL."""
        return self.port == AMQP_PORT


def state_folder() -> Path:
    """Return the folder of the record: ``$XDG_STATE_HOME/amqp-rpc``, by default ``~/.local/state/amqp-rpc``."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "amqp-rpc"


def read() -> Record | None:
    """Return the record; None if it is missing or can't be read."""
    try:
        entry = Record(**json.loads(_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if entry.way == "docker" and entry.name:
        return entry
    # Its folder is removed when it is stopped: never accept a folder that may belong to another program.
    return entry if entry.way == "private node" and entry.name and Path(entry.folder).is_absolute() else None


def write(record: Record) -> None:
    """Write the record. A crash meanwhile leaves the old one or the new one, never half of it."""
    new = _path().with_suffix(".new")
    new.write_text(json.dumps(asdict(record), indent=2) + "\n")
    new.replace(_path())


def forget() -> None:
    """Remove the record."""
    _path().unlink(missing_ok=True)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one start or stop of this user run at a time."""
    state_folder().mkdir(parents=True, exist_ok=True)
    with (state_folder() / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _path() -> Path:
    return state_folder() / "broker.json"
