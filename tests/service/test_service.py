"""A service is a list of functions that stay functions; what is wrong with one is said where it is registered."""

from __future__ import annotations

import functools

import pytest

from amqp_rpc import Service
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import LONGEST_NAME, dead_letter_queue
from amqp_rpc.service.catalog import default_function, merge
from amqp_rpc.service.registration import registered


def double(n: int) -> int:
    return 2 * n


def fresh():
    """A function of its own for each test: a function remembers its first registration."""

    def f(n: int) -> int:
        return 2 * n

    return f


class TestRegistering:
    def test_the_function_stays_the_function_that_it_is(self):
        function = fresh()
        assert Service().rpc(function) is function
        assert function(4) == 8

    def test_it_is_listed_with_what_was_said_of_it(self):
        service = Service("billing")
        service.rpc(name="twice", idempotent=True, default=True)(fresh())
        function = service.functions["twice"]
        assert (function.name, function.service, function.queue) == ("twice", "billing", "rpc_queue.billing")
        assert (function.idempotent, function.default, function.asynchronous) == (True, True, False)

    def test_nothing_is_idempotent_or_default_unless_it_says_so(self):
        service = Service()
        service.rpc()(fresh())
        assert (service.functions["f"].idempotent, service.functions["f"].default) == (False, False)

    def test_an_async_function_is_known_for_one(self):
        service = Service()

        @service.rpc
        async def wait() -> None: ...

        assert service.functions["wait"].asynchronous

    def test_a_bound_method_can_be_registered(self):
        class Bank:
            def charge(self, amount: int) -> int:
                return amount

        service = Service()
        service.rpc(Bank().charge)
        assert service.functions["charge"].call(5) == 5

    def test_a_lambda_can_be_registered_under_a_name(self):
        service = Service()
        service.rpc(name="f")(lambda n: n)
        assert list(service.functions) == ["f"]

    @pytest.mark.parametrize("wrong", ["fib", 5, int, None.__class__])
    def test_what_is_no_function_is_refused(self, wrong):
        with pytest.raises(ConfigurationError, match=r"@service.rpc takes a function, not "):
            Service().rpc(wrong)

    @pytest.mark.parametrize("name", ["", "a.b", "x" * 256])
    def test_a_name_that_cannot_be_called_is_refused(self, name):
        with pytest.raises(ConfigurationError, match="can't name a function"):
            Service().rpc(name=name)(fresh())

    def test_a_name_that_is_taken_is_refused_with_both_places(self):
        service = Service()
        service.rpc(double)
        line = double.__code__.co_firstlineno
        with pytest.raises(
            ConfigurationError, match=rf"test_service.py:\d+: 'double' is registered already, at .*:{line}"
        ):
            service.rpc(name="double")(fresh())

    def test_a_second_default_is_refused(self):
        service = Service()
        service.rpc(name="a", default=True)(fresh())
        with pytest.raises(ConfigurationError, match="'a' is the default function already"):
            service.rpc(name="b", default=True)(fresh())

    def test_a_refused_function_is_not_listed(self):
        service = Service()
        with pytest.raises(ConfigurationError):
            service.rpc(lambda timeout: timeout)
        assert service.functions == {}

    def test_what_is_given_out_is_a_copy(self):
        service = Service()
        service.functions["f"] = None
        assert service.functions == {}


class TestNames:
    def test_a_service_without_a_name_has_the_queue_of_the_tutorials(self):
        assert Service().queue == "rpc_queue"

    @pytest.mark.parametrize("name", ["", "a.b", "x" * 246, "é" * 123])
    def test_a_name_that_cannot_be_in_a_queues_name_is_refused(self, name):
        with pytest.raises(ConfigurationError, match="can't name a service"):
            Service(name)

    def test_no_service_has_the_queue_where_dead_letters_of_another_go(self):
        with pytest.raises(ConfigurationError):
            Service("dead")

    def test_every_service_has_a_dead_letter_queue_with_a_name_that_amqp_takes(self):
        longest = 0
        for length in range(1, 256):
            try:
                longest = max(longest, len(dead_letter_queue(Service("x" * length).queue)))
            except ConfigurationError:
                break
        assert 250 < longest <= LONGEST_NAME

    def test_it_is_shown_with_its_functions(self):
        service = Service("billing")
        assert repr(service) == "Service('billing': no functions)"
        service.rpc(fresh())
        assert repr(service) == "Service('billing': f)"


class TestTheFunctionObject:
    def test_it_knows_what_it_was_registered_as(self):
        function = fresh()
        Service("billing").rpc(name="twice")(function)
        assert (registered(function).queue, registered(function).name) == ("rpc_queue.billing", "twice")

    def test_the_first_registration_names_it(self):
        function = fresh()
        Service("one").rpc(function)
        Service("two").rpc(function)
        assert registered(function).service == "one"

    def test_one_that_was_never_registered_is_refused_with_advice(self):
        with pytest.raises(
            ConfigurationError, match=r"'fresh' is not registered with any service; decorate it with @serv"
        ):
            registered(fresh)

    def test_a_wrapper_of_a_registered_function_is_called_as_what_it_was_registered_itself(self):
        inner = Service().rpc(fresh())

        @functools.wraps(inner)
        def outer(n: int) -> int:
            return inner(n) + 1

        Service("outer").rpc(outer)
        assert registered(outer).queue == "rpc_queue.outer"


class TestMerging:
    def test_services_are_sorted_by_queue(self):
        one, two = Service(), Service("two")
        one.rpc(name="a")(fresh())
        two.rpc(name="b")(fresh())
        assert {queue: list(functions) for queue, functions in merge([one, two]).items()} == {
            "rpc_queue": ["a"],
            "rpc_queue.two": ["b"],
        }

    def test_services_of_one_queue_are_joined(self):
        one, two = Service(), Service()
        one.rpc(name="a")(fresh())
        two.rpc(name="b")(fresh())
        assert list(merge([one, two])["rpc_queue"]) == ["a", "b"]

    def test_a_service_that_was_given_twice_counts_once(self):
        service = Service()
        service.rpc(fresh())
        assert list(merge([service, service])["rpc_queue"]) == ["f"]

    def test_two_functions_of_one_name_and_queue_are_refused(self):
        one, two = Service(), Service()
        one.rpc(fresh())
        two.rpc(fresh())
        with pytest.raises(
            ConfigurationError, match="'f' is registered already in another service with queue 'rpc_queue'"
        ):
            merge([one, two])

    def test_two_defaults_of_one_queue_are_refused(self):
        one, two = Service(), Service()
        one.rpc(name="a", default=True)(fresh())
        two.rpc(name="b", default=True)(fresh())
        with pytest.raises(ConfigurationError, match="queue 'rpc_queue' has two default functions"):
            merge([one, two])

    def test_a_service_without_functions_is_refused(self):
        with pytest.raises(ConfigurationError, match="the service of 'rpc_queue' has no functions"):
            merge([Service()])

    def test_a_hint_that_does_not_exist_is_found_before_anything_is_served(self):
        service = Service()

        @service.rpc
        def f(n: Nowhere) -> int: ...  # noqa: F821 - that is the point

        with pytest.raises(ConfigurationError, match="name 'Nowhere' is not defined"):
            merge([service])


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
