"""Small programs that show one thing each; run them from this folder's parent: ``python -m examples.calling``.

Without a broker, or without a server or subscriber, they end with one line that says so. In a program of your own
that is three lines: ``try:``, ``except (BrokerError, Unroutable) as error:``, ``sys.exit(str(error))``.
"""

from __future__ import annotations

import sys
from types import TracebackType

from amqp_rpc import BrokerError, Unroutable


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, BrokerError | Unroutable):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# argv[0] is "-m" while `python -m` looks for a module. A server that imports an example keeps its own hook.
if sys.argv[0] == "-m":
    sys.excepthook = _one_line
