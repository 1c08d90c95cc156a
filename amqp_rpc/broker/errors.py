"""The errors of a throwaway broker.

::

    BrokerError(ConnectionError)
    ├─ NotAvailable     this machine has no RabbitMQ, nor a way to get it
    ├─ InstallFailed    the package manager failed
    ├─ StartFailed      RabbitMQ did not start; the message names its log
    ├─ ControlFailed    rabbitmqctl failed
    └─ CleanupRefused   a folder was not removed, because something is mounted in it
"""

from __future__ import annotations

from amqp_rpc.errors import BrokerError


class NotAvailable(BrokerError):
    """This machine has neither a Docker engine nor RabbitMQ."""


class InstallFailed(BrokerError):
    """RabbitMQ could not be installed."""


class StartFailed(BrokerError):
    """RabbitMQ did not start; nothing of it was left running."""


class ControlFailed(BrokerError):
    """RabbitMQ's control program failed."""


class CleanupRefused(BrokerError):
    """A node's folder was not removed, because that might have removed other files."""
