"""Where RabbitMQ's programs are on this machine, and what to tell where they are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: What to do where there is no RabbitMQ; ends every message that says so.
ADVICE = (
    "start a Docker engine, or install RabbitMQ: `apt-get install rabbitmq-server` "
    "(`amqp-rpc broker start --install` does it for you), or see https://www.rabbitmq.com/docs/download"
)

#: Where the programs may be besides the PATH, which often lacks ``sbin`` for ordinary users.
FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")

#: Packages put wrappers on the PATH that change to the user ``rabbitmq`` and log to /var/log; these are the real ones.
PACKAGED = Path("/usr/lib/rabbitmq/bin")
WRAPPERS = (Path("/usr/sbin"), Path("/usr/bin"))


def find_program(name: str) -> str | None:
    """Return the path of one of RabbitMQ's programs, or ``None``: on the PATH, or where packages put it."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(FOLDERS))
    packaged = PACKAGED / name
    return str(packaged) if found is not None and Path(found).parent in WRAPPERS and packaged.exists() else found


def packaged_version() -> str:
    """The version that would start, where the path tells it, as packages' paths do; asking RabbitMQ takes seconds."""
    program = find_program("rabbitmq-server")
    for part in Path(os.path.realpath(program)).parts if program else ():
        if part.startswith("rabbitmq_server-"):
            return part.removeprefix("rabbitmq_server-")
    return ""
