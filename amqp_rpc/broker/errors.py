"""What can go wrong with a broker for development.

::

    BrokerError(ConnectionError)
    ├─ NotAvailable     there is no RabbitMQ here, nor a way to get one
    ├─ InstallFailed    the package manager failed
    ├─ StartFailed      RabbitMQ is here and did not start; see ``log``
    ├─ ControlFailed    rabbitmqctl failed
    └─ CleanupRefused   a folder was not removed, since something is mounted in it
"""

from __future__ import annotations

from amqp_rpc.errors import BrokerError


class NotAvailable(BrokerError):
    """There is neither a Docker engine nor RabbitMQ on this machine."""


class InstallFailed(BrokerError):
    """RabbitMQ could not be installed."""


class StartFailed(BrokerError):
    """RabbitMQ is here, and did not start; nothing of it was left running."""


class ControlFailed(BrokerError):
    """RabbitMQ's control program failed."""


class CleanupRefused(BrokerError):
    """Files of a node were left, since removing them could have removed something else."""
