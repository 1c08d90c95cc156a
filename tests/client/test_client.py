"""A client's options."""

from __future__ import annotations

import pytest

from amqp_rpc import Client, ConfigurationError
from amqp_rpc.client.client import WithOptions


class Recorder:
    """A client that records what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def call(self, *args: object, **kwargs: object) -> None:
        self.asked.append(("call", args, kwargs))

    def enqueue(self, *args: object, **kwargs: object) -> None:
        self.asked.append(("enqueue", args, kwargs))


def test_options_are_given_to_the_methods_that_have_them_and_keywords_count_before_them() -> None:
    client = Recorder()
    patient = WithOptions(client, {"timeout": 60.0, "wait_for_server": True})
    patient.call("fib", 30, n=1)
    patient.call("fib", timeout=5.0)
    WithOptions(client, {"delay": 2.5, "queue": "others"}).enqueue("resize", "a.png")
    assert client.asked == [
        ("call", ("fib", 30), {"timeout": 60.0, "wait_for_server": True, "n": 1}),
        ("call", ("fib",), {"timeout": 5.0, "wait_for_server": True}),
        ("enqueue", ("resize", "a.png"), {"delay": 2.5, "queue": "others"}),
    ]


def test_an_option_that_a_method_does_not_have_is_refused() -> None:
    client = Client("amqp://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match=r"call has no option delay"):
        client.with_options(delay=2.5, timeout=1).call("fib", 30)
    with pytest.raises(ConfigurationError, match=r"enqueue has no option idempotent"):
        client.with_options(idempotent=True).enqueue("resize")
    with pytest.raises(ConfigurationError, match=r"no option retries; it has delay, eta, .*wait_for_server"):
        client.with_options(retries=3)  # type: ignore[call-arg]
