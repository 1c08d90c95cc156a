"""A throwaway RabbitMQ for development and tests: start it, ask for it, stop it. It is not for production.

It never connects as a client, and imports only `errors`.

Example::

    from amqp_rpc import broker

    running = broker.start()
    print(running.url)
    broker.stop()
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from amqp_rpc.broker import docker, programs, record
from amqp_rpc.broker.errors import CleanupRefused, ControlFailed, InstallFailed, NotAvailable, StartFailed
from amqp_rpc.broker.node import Node
from amqp_rpc.broker.ports import AMQP_PORT, free_port, greet, is_free
from amqp_rpc.broker.processes import PAUSE
from amqp_rpc.broker.programs import find_program, say_to_stderr
from amqp_rpc.broker.record import Record

__all__ = [
    "CleanupRefused",
    "ControlFailed",
    "InstallFailed",
    "Node",
    "NotAvailable",
    "Record",
    "StartFailed",
    "provide",
    "start",
    "status",
    "stop",
]


def start(*, install: bool = False, timeout: float = 60.0, say: Callable[[str], object] = say_to_stderr) -> Record:
    """Start a RabbitMQ on loopback that runs in the background, or return the one that runs already.

    It listens on port 5672 if that is free, so that clients need no URL, otherwise on another port. It is the first of
    these that works: a container of a Docker engine; the machine's ``rabbitmq-server`` as a private node; with
    ``install``, the newly installed package as a private node.

    Args:
        install: Whether to install RabbitMQ with apt-get if it is missing.
        timeout: Seconds for RabbitMQ to start, once it is on this machine.
        say: Called with each line of progress; prints to standard error by default.

    Returns:
        The running broker: its ``url``, ``way``, ``version`` and ``pid``.

    Raises:
        NotAvailable: This machine has no RabbitMQ.
        InstallFailed: apt-get failed.
        StartFailed: RabbitMQ did not start. Nothing of it was left running.
    """
    with record.locked():
        found = _running()
        if found is not None:
            say(f"RabbitMQ {found.version} runs already ({found.way})")
            return found
        _remove_rest()  # of a broker that died, or whose start was killed
        port = AMQP_PORT if is_free(AMQP_PORT) else free_port()
        no_docker = "no Docker engine answers"
        began = time.monotonic()
        if docker.engine_answers():
            say("starting RabbitMQ in a container (the first time its image is downloaded) …")
            try:
                found = _start_container(port, timeout=timeout)
            except (NotAvailable, StartFailed) as error:
                no_docker = str(error)
                say(f"{error}; trying rabbitmq-server")
        if found is None:
            if find_program("rabbitmq-server") is None:
                if not install:
                    missing = f"{no_docker}, and rabbitmq-server is not installed"
                    raise NotAvailable(f"there is no RabbitMQ here: {missing}; {programs.ADVICE}")
                programs.install(say=say)
            began = time.monotonic()
            say(f"starting RabbitMQ {programs.packaged_version()} …".replace("  ", " "))
            found = _start_node(port, timeout=timeout)
        say(f"RabbitMQ {found.version} is ready, in {time.monotonic() - began:.1f} s")
        return found


def stop() -> Record | None:
    """Stop the broker that `start` started, and remove its data; return it, or None if none was running."""
    with record.locked():
        found = _running()
        _remove_rest()
        return found


def status() -> Record | None:
    """Return the broker that `start` started, if it still answers, else None."""
    return _running()


def queues() -> list[str]:
    """Return the names of all queues of the private node that `start` started; an empty list for any other broker.

    Raises:
        ControlFailed: ``rabbitmqctl`` failed, or did not end in time.
    """
    entry = _running()
    if entry is None or entry.way != "private node":
        return []
    return _node(entry).ctl("list_queues", "name", "--no-table-headers").splitlines()


def provide(*, say: Callable[[str], object] = say_to_stderr) -> None:
    """Make sure that `start` can work: install RabbitMQ if this machine has neither that nor a Docker engine.

    Args:
        say: Called with each line of progress; prints to standard error by default.

    Raises:
        NotAvailable: There is no apt-get, or no permission to run it.
        InstallFailed: apt-get failed.
    """
    if find_program("rabbitmq-server") is None and not docker.engine_answers():
        programs.install(say=say)


def _start_node(port: int, *, timeout: float) -> Record:
    node = Node(port=port)
    entry = Record(way="private node", port=port, name=node.name, folder=str(node.folder), port_mapper=node.port_mapper)
    try:
        record.write(entry)  # before it starts, so that `stop` finds it even if this process is killed
        node.start(timeout=timeout)
        entry = replace(entry, version=node.version, pid=node.pid)
        record.write(entry)
    except StartFailed as error:
        raise StartFailed(_with_kept_log(str(error), node)) from error
    finally:
        if not entry.version:
            node.close()
            record.forget()
    return entry


def _start_container(port: int, *, timeout: float) -> Record:
    project = docker.Project(name=f"amqp-rpc-{secrets.token_hex(4)}", port=port, management_port=free_port())
    entry = Record(way="docker", port=port, name=project.name)
    try:
        record.write(entry)
        project.up(timeout=timeout)
        until = time.monotonic() + timeout
        while (version := greet(port)) is None:
            if time.monotonic() > until:
                raise StartFailed(f"RabbitMQ in the container was not ready in {timeout:.0f} s")
            time.sleep(PAUSE)
        entry = replace(entry, version=version)
        record.write(entry)
    finally:
        if not entry.version:
            project.down()
            record.forget()
    return entry


def _running() -> Record | None:
    """Return the recorded broker if it is the one that runs."""
    entry = record.read()
    if entry is None or not entry.version:
        return None
    runs = (
        _node(entry).pid > 0 if entry.way == "private node" else docker.Project(name=entry.name, port=entry.port).runs()
    )
    return entry if runs and greet(entry.port) is not None else None


def _remove_rest() -> None:
    """Stop and remove the recorded broker, or the rest of it."""
    entry = record.read()
    if entry is None:
        return
    if entry.way == "private node":
        node = _node(entry)
        node.stop(timeout=10.0)
        node.close()
    elif docker.engine_answers():
        docker.Project(name=entry.name, port=entry.port).down()
    else:
        # Keep the record: it is the only way to find the container once the engine answers again.
        raise ControlFailed(f"the Docker engine does not answer, so container {entry.name} could not be removed")
    record.forget()


def _node(entry: Record) -> Node:
    return Node(port=entry.port, folder=Path(entry.folder), name=entry.name.partition("@")[0],
                port_mapper=entry.port_mapper)  # fmt: skip


def _with_kept_log(message: str, node: Node) -> str:
    """Copy the log of a failed start to a place where it stays, and name that place in the message."""
    log, kept = node.folder / "log", record.state_folder() / "log"
    if log.is_dir():
        shutil.copytree(log, kept, dirs_exist_ok=True)
    return message.replace(str(log), str(kept))
