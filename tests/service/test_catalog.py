"""Services together, as a server has them: by queue and name."""

from __future__ import annotations

import pytest

from amqp_rpc import Service
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.service.catalog import Catalog, default_function


def fresh():
    """A function of its own for each test: a function remembers its first registration."""

    def f(n: int) -> int:
        return 2 * n

    return f


class TestMerging:
    def test_services_are_sorted_by_queue(self):
        one, two = Service(), Service("two")
        one.rpc(name="a")(fresh())
        two.rpc(name="b")(fresh())
        assert {queue: list(functions) for queue, functions in Catalog([one, two]).functions.items()} == {
            "rpc_queue": ["a"],
            "rpc_queue.two": ["b"],
        }

    def test_services_of_one_queue_are_joined(self):
        one, two = Service(), Service()
        one.rpc(name="a")(fresh())
        two.rpc(name="b")(fresh())
        assert list(Catalog([one, two]).functions["rpc_queue"]) == ["a", "b"]

    def test_a_service_that_was_given_twice_counts_once(self):
        service = Service()
        service.rpc(fresh())
        assert list(Catalog([service, service]).functions["rpc_queue"]) == ["f"]

    def test_two_functions_of_one_name_and_queue_are_refused(self):
        one, two = Service(), Service()
        one.rpc(fresh())
        two.rpc(fresh())
        with pytest.raises(
            ConfigurationError, match="'f' is registered already in another service with queue 'rpc_queue'"
        ):
            Catalog([one, two])

    def test_two_defaults_of_one_queue_are_refused(self):
        one, two = Service(), Service()
        one.rpc(name="a", default=True)(fresh())
        two.rpc(name="b", default=True)(fresh())
        with pytest.raises(ConfigurationError, match="queue 'rpc_queue' has two default functions"):
            Catalog([one, two])

    def test_a_service_without_functions_is_refused(self):
        with pytest.raises(ConfigurationError, match="the service of 'rpc_queue' has no functions"):
            Catalog([Service()])

    def test_a_hint_that_does_not_exist_is_found_before_anything_is_served(self):
        service = Service()

        @service.rpc
        def f(n: Nowhere) -> int: ...  # noqa: F821 - that is the point

        with pytest.raises(ConfigurationError, match="name 'Nowhere' is not defined"):
            Catalog([service])


class TestTheDefault:
    def test_the_only_function_is_the_default(self):
        service = Service()
        service.rpc(fresh())
        assert default_function(service.functions).name == "f"

    def test_among_several_it_is_the_one_that_says_so(self):
        service = Service()
        service.rpc(name="a")(fresh())
        service.rpc(name="b", default=True)(fresh())
        assert default_function(service.functions).name == "b"

    def test_among_several_that_do_not_there_is_none(self):
        service = Service()
        service.rpc(name="a")(fresh())
        service.rpc(name="b")(fresh())
        assert default_function(service.functions) is None
