"""Call Python functions in other processes through RabbitMQ as simply as local ones.

A `Service` lists functions, ``amqp-rpc serve`` (or a `Server`) runs them, a `Client` or an `AsyncClient` calls them.
Importing this package opens no socket and starts no thread.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from amqp_rpc.client.client import Client
from amqp_rpc.client.task import TaskHandle
from amqp_rpc.errors import (
    AccessRefused,
    AlreadyQueued,
    AmqpRpcError,
    BrokerError,
    BrokerTimeout,
    CallError,
    CallTimeout,
    CodecError,
    ConfigurationError,
    ConnectionLost,
    Expired,
    FunctionNotFound,
    InvalidArguments,
    MaybeExecuted,
    MessageTooLarge,
    NamesAnotherQueue,
    NoServer,
    NotAllAccepted,
    NotAuthorized,
    NotConnected,
    NotDone,
    NotSent,
    Overloaded,
    PublishRefused,
    Reject,
    RemoteError,
    ResultLost,
    Retry,
    StoreUnavailable,
    TimeLimitExceeded,
    Undecodable,
    Unencodable,
    Unroutable,
)
from amqp_rpc.message.dead_letter import DeadLetter, Death
from amqp_rpc.message.envelope import Event
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.failures import register_error
from amqp_rpc.ops.dead_letters import DeadLetters
from amqp_rpc.queues.queue import Queue
from amqp_rpc.service.context import Context, context
from amqp_rpc.service.service import Service

if TYPE_CHECKING:
    from amqp_rpc.client.aio import AsyncClient
    from amqp_rpc.client.bridge import AsyncDeadLetters, AsyncQueue, AsyncTaskHandle
    from amqp_rpc.server.server import Server

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # for your code
    "Service",
    "Server",
    "Client",
    "AsyncClient",
    "register_error",
    "context",
    "Context",
    "Event",
    "Exchange",
    "TaskHandle",
    "AsyncTaskHandle",
    "DeadLetters",
    "AsyncDeadLetters",
    "DeadLetter",
    "Death",
    "Queue",
    "AsyncQueue",
    "Retry",
    "Reject",
    # errors
    "AmqpRpcError",
    "ConfigurationError",
    "BrokerError",
    "NotConnected",
    "ConnectionLost",
    "BrokerTimeout",
    "PublishRefused",
    "AlreadyQueued",
    "NamesAnotherQueue",
    "NotAllAccepted",
    "AccessRefused",
    "CallError",
    "Unroutable",
    "NoServer",
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
]

# A library is silent until its user says where logs go: https://docs.python.org/3/howto/logging.html
logging.getLogger(__name__).addHandler(logging.NullHandler())

#: Imported at their first use, since not every program needs them: asyncio alone takes as long as all the rest.
_LATER = {
    "AsyncClient": "amqp_rpc.client.aio",
    "AsyncDeadLetters": "amqp_rpc.client.bridge",
    "AsyncQueue": "amqp_rpc.client.bridge",
    "AsyncTaskHandle": "amqp_rpc.client.bridge",
    "Server": "amqp_rpc.server.server",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return found
