"""What the exit code of ``amqp-rpc`` says; scripts may rely on the numbers."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of ``amqp-rpc``, by name."""

    OK = 0  #: it worked; a server: it was told to stop, and drained
    ERROR = 1  #: something that has no code of its own
    USAGE = 2  #: the command line is wrong

    NO_BROKER = 10  #: no connection to the broker, or it was lost
    ACCESS_REFUSED = 11  #: wrong user name, password, virtual host or permission
    NO_SERVER = 12  #: no such queue, or nobody consumes it
    TIMEOUT = 13  #: no answer in time; the function may have run
    MAYBE_EXECUTED = 14  #: the server died with the call; the function may have run
    REMOTE_ERROR = 15  #: the function ran, and raised
    BAD_ARGUMENTS = 16  #: the arguments do not fit the function, or are too large
    NO_FUNCTION = 17  #: the server has no such function

    REFUSED = 18  #: enqueue, dlq replay: the broker does not take it: a full queue, an alarm

    NO_MODULE = 20  #: serve: there is no module of that name
    IMPORT_FAILED = 21  #: serve: the module is there, and fails to import
    NO_SERVICE = 22  #: serve: the module has no service
    CONFIGURATION = 23  #: code or settings are wrong

    BROKER_START_FAILED = 30  #: broker start: RabbitMQ did not start
    BROKER_NOT_AVAILABLE = 31  #: broker start: neither Docker nor rabbitmq-server is here
    BROKER_NOT_RUNNING = 32  #: broker status: none is running

    DRAIN_TIMEOUT = 40  #: serve: told to stop, and calls were still running when the drain timeout was over
    TIME_LIMIT = 41  #: serve: a task ran into its time limit and its handler could only be ended with the process

    NO_DEAD_LETTER = 50  #: dlq: there is none with that id, or several
    NOT_CONFIRMED = 51  #: dlq drop: nobody said yes

    INTERRUPTED = 130  #: a second Ctrl-C, or Ctrl-C where there was nothing to drain
