"""What a service says of an event's handler: where its events come from, and who of its replicas gets each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from amqp_rpc.errors import ConfigurationError, InvalidArguments
from amqp_rpc.message.events import Event
from amqp_rpc.message.exchanges import Binding, Exchange
from amqp_rpc.service.signature import Signature

#: Who gets an event: one of a service's replicas, or each.
Mode = Literal["shared", "broadcast"]


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where the events of a function come from.

    Args:
        exchange: Which has them.
        bindings: Which of them.
        mode: Who gets each.
    """

    exchange: Exchange
    bindings: tuple[Binding, ...]
    mode: Mode

    def __str__(self) -> str:
        """Return it as a banner shows it: ``orders.*.paid``."""
        said = [binding.key or _compared(binding) or "everything" for binding in self.bindings]
        return ", ".join(said)


class EventSignature(Signature):
    """The parameters of an event's handler: one takes the payload, one the `Event`, and each may be left away."""

    def check(self) -> None:
        """Check what can be known of the parameters before all names in their type hints are.

        Raises:
            ConfigurationError: An event can't be given to them.
        """
        try:
            self.roles()
        except ConfigurationError as error:
            # It is looked at again when the service is served.
            if not isinstance(error.__cause__, NameError):
                raise

    def roles(self) -> tuple[str | None, str | None]:
        """Return the names of the parameters for the payload and for the `Event`; None for one that is not there.

        Raises:
            ConfigurationError: There are more parameters, or a type hint fails.
        """
        hints = self.compile().hints
        events = [name for name, hint in hints.items() if hint is Event or Event in get_args(hint)]
        others = [name for name in hints if name not in events]
        required = [name for name in self.required if name not in events]
        takes = others[0] if others else None
        if len(events) > 1 or [name for name in required if name != takes]:
            raise ConfigurationError(
                f"{self.where}: {self.name}() takes {', '.join(self.required)}, and an event has one payload: write "
                f"{self.name}(payload), with its type hint, and a parameter with the type hint Event if you need it"
            )
        return takes, events[0] if events else None

    def has_default(self, name: str) -> bool:
        """Return whether a parameter may be left away."""
        return name not in self.required

    def payload(self, name: str, value: Any, *, binary: bool, text: bool) -> Any:
        """Return a payload as its parameter's type hint says.

        Args:
            name: The parameter's.
            value: What was decoded.
            binary: Whether it came in a form that has bytes.
            text: Whether it came as plain text: it is taken as it is where text fits, and else converted.

        Raises:
            InvalidArguments: It does not fit.
        """
        compiled = self.compile()
        if not text:
            return compiled.convert(name, value, binary=binary)
        if compiled.hints[name] is bytes:
            return value.encode()
        try:
            return compiled.convert(name, value, binary=False)
        except InvalidArguments:
            return compiled.convert(name, value, binary=False, strict=False)


def _compared(binding: Binding) -> str:
    return ", ".join(f"{name}={value}" for name, value in binding.arguments)
