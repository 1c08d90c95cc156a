"""A throwaway RabbitMQ for development: start one, ask for it, stop it. It is not for production.

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
from dataclasses import replace
from pathlib import Path

from amqp_rpc.broker import docker, record
from amqp_rpc.broker.errors import CleanupRefused, ControlFailed, InstallFailed, NotAvailable, StartFailed
from amqp_rpc.broker.install import install as install_package
from amqp_rpc.broker.node import Node
from amqp_rpc.broker.ports import AMQP_PORT, free_port, greet, is_free
from amqp_rpc.broker.processes import PAUSE
from amqp_rpc.broker.programs import ADVICE, find_program, packaged_version
from amqp_rpc.broker.progress import Say, say_to_stderr
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


def start(*, install: bool = False, timeout: float = 60.0, say: Say = say_to_stderr) -> Record:
    """Start a RabbitMQ on loopback that goes on in the background, or find the one that was started before.

    It listens on port 5672 where that is free, so that clients need no URL, else on another one. It is the first of
    these that works: a container of a Docker engine, the machine's ``rabbitmq-server`` as a private node, and with
    ``install`` the package, as a private node too.

    Args:
        install: get RabbitMQ with apt-get where there is none.
        timeout: seconds for RabbitMQ to start, once it is on this machine.
        say: takes the lines that tell what is being waited for.

    Returns:
        What runs now: its ``url``, ``way``, ``version`` and ``pid``.

    Raises:
        NotAvailable: there is no RabbitMQ here.
        InstallFailed: apt-get failed.
        StartFailed: RabbitMQ is here, and did not start. Nothing of it was left running.
    """
    with record.locked():
        found = _running()
        if found is not None:
            say(f"RabbitMQ {found.version} runs already ({found.way})")
            return found
        _remove_rest()  # of one that died, or whose start was killed
        port = AMQP_PORT if is_free(AMQP_PORT) else free_port()
        no_docker = "no Docker engine answers"
        if docker.engine_answers():
            try:
                return _start_container(port, timeout=timeout, say=say)
            except (NotAvailable, StartFailed) as error:
                no_docker = str(error)
                say(f"{error}; trying rabbitmq-server")
        if find_program("rabbitmq-server") is None:
            if not install:
                raise NotAvailable(
                    f"there is no RabbitMQ here: {no_docker}, and rabbitmq-server is not installed; {ADVICE}"
                )
            install_package(say=say)
        return _start_node(port, timeout=timeout, say=say)


def stop() -> Record | None:
    """Stop what `start` started and remove its data.

    Returns:
        What was stopped; ``None`` where nothing ran.
    """
    with record.locked():
        found = _running()
        _remove_rest()
        return found


def status() -> Record | None:
    """Return the broker that `start` started and that still answers; ``None`` where there is none."""
    return _running()


def provide(*, say: Say = say_to_stderr) -> None:
    """Make sure that `start` can work on this machine: installs RabbitMQ where there is neither Docker nor that.

    Args:
        say: takes the lines that tell what is being waited for.

    Raises:
        NotAvailable: there is no apt-get, or no right to run it.
        InstallFailed: apt-get failed.
    """
    if find_program("rabbitmq-server") is None and not docker.engine_answers():
        install_package(say=say)


def _start_node(port: int, *, timeout: float, say: Say) -> Record:
    node = Node(port=port)
    entry = Record(way="private node", port=port, name=node.name, folder=str(node.folder), port_mapper=node.port_mapper)
    began = time.monotonic()
    try:
        record.write(entry)  # before it starts: if even this process is killed, `stop` finds it
        say(f"starting RabbitMQ {packaged_version()} …".replace("  ", " "))
        node.start(timeout=timeout)
        entry = replace(entry, version=node.version, pid=node.pid)
        record.write(entry)
    except StartFailed as error:
        raise StartFailed(_with_kept_log(str(error), node)) from error
    finally:
        if not entry.version:
            node.close()
            record.forget()
    say(f"RabbitMQ {entry.version} is ready, in {time.monotonic() - began:.1f} s")
    return entry


def _start_container(port: int, *, timeout: float, say: Say) -> Record:
    project = docker.Project(name=f"amqp-rpc-{secrets.token_hex(4)}", port=port, management_port=free_port())
    entry = Record(way="docker", port=port, name=project.name)
    began = time.monotonic()
    try:
        record.write(entry)
        say("starting RabbitMQ in a container (the first time its image is downloaded) …")
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
    say(f"RabbitMQ {entry.version} is ready, in {time.monotonic() - began:.1f} s")
    return entry


def _running() -> Record | None:
    """Return what is recorded, if it is really that which runs."""
    entry = record.read()
    if entry is None or not entry.version:
        return None
    runs = (
        _node(entry).pid > 0 if entry.way == "private node" else docker.Project(name=entry.name, port=entry.port).runs()
    )
    return entry if runs and greet(entry.port) is not None else None


def _remove_rest() -> None:
    """Stop and remove whatever is recorded, however little of it is left."""
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
        # Forgotten, it would run for ever: the record is how it is found once the engine answers again.
        raise ControlFailed(f"the Docker engine does not answer, so container {entry.name} could not be removed")
    record.forget()


def _node(entry: Record) -> Node:
    return Node(port=entry.port, folder=Path(entry.folder), name=entry.name.partition("@")[0],
                port_mapper=entry.port_mapper)  # fmt: skip


def _with_kept_log(message: str, node: Node) -> str:
    """Put the log of a failed start where it stays, and name that place in the message."""
    log, kept = node.folder / "log", record.state_folder() / "log"
    if log.is_dir():
        shutil.copytree(log, kept, dirs_exist_ok=True)
    return message.replace(str(log), str(kept))
