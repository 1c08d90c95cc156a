"""`import amqp_rpc` gives the public names, and does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import amqp_rpc

EXPORTS = {
    "Service",
    "Server",
    "Client",
    "AsyncClient",
    "register_error",
    "context",
    "Context",
    "TaskHandle",
    "DeadLetters",
    "DeadLetter",
    "Death",
    "Queue",
    "AsyncQueue",
    "Event",
    "Exchange",
    "Retry",
    "Reject",
    "AlreadyQueued",
    "AmqpRpcError",
    "AsyncTaskHandle",
    "AsyncDeadLetters",
    "ConfigurationError",
    "BrokerError",
    "NotConnected",
    "ConnectionLost",
    "BrokerTimeout",
    "PublishRefused",
    "AccessRefused",
    "CallError",
    "Unroutable",
    "NoServer",
    "NamesAnotherQueue",
    "NotAllAccepted",
    "FunctionNotFound",
    "InvalidArguments",
    "NotAuthorized",
    "Expired",
    "Overloaded",
    "NotSent",
    "CallTimeout",
    "MaybeExecuted",
    "RemoteError",
    "TimeLimitExceeded",
    "CodecError",
    "Undecodable",
    "Unencodable",
    "MessageTooLarge",
    "NotDone",
    "StoreUnavailable",
    "ResultLost",
}

PROGRAM = """
import json, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
import amqp_rpc, threading
{more}
print(json.dumps({{
    "sockets": opened,
    "threads": len(threading.enumerate()),
    "loaded": [name for name in ("click", "asyncio", "pika", "ssl") if name in sys.modules],
}}))
"""


def alone(more: str = "") -> dict:
    """Return the report of a new interpreter after ``import amqp_rpc``."""
    program = PROGRAM.format(more=more)
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True)
    return json.loads(ended.stdout)


def test_the_public_names_are_these():
    assert set(amqp_rpc.__all__) == EXPORTS
    assert len(amqp_rpc.__all__) == len(EXPORTS)


def test_every_public_name_is_there():
    assert all(hasattr(amqp_rpc, name) for name in amqp_rpc.__all__)


def test_every_public_error_can_be_caught_by_the_root():
    errors = [getattr(amqp_rpc, name) for name in amqp_rpc.__all__]
    assert all(issubclass(e, amqp_rpc.AmqpRpcError) for e in errors if isinstance(e, type) and issubclass(e, Exception))


def test_importing_opens_no_socket_starts_no_thread_and_loads_only_what_each_client_needs():
    assert alone() == {"sockets": [], "threads": 1, "loaded": []}


def test_a_service_opens_no_socket_and_starts_no_thread():
    assert alone("amqp_rpc.Service().rpc(lambda n: n, name='f')") == {"sockets": [], "threads": 1, "loaded": []}


def test_the_audit_would_see_a_socket():
    assert "socket.__new__" in alone("import socket; socket.socket().close()")["sockets"]
