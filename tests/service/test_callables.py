"""Methods, partials and objects with ``__call__`` are registered and found, or refused at import in one line."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import math
import sys
import types
from typing import Any

import pytest

from amqp_rpc import Service
from amqp_rpc.errors import ConfigurationError, InvalidArguments
from amqp_rpc.service.function import registered, registered_task


class Rates:
    base = 3

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def times(self, n: int) -> int:
        return n * self.factor

    @classmethod
    def based(cls, n: int) -> int:
        return n * cls.base

    @staticmethod
    def plus(n: int) -> int:
        return n + 1

    async def later(self, n: int) -> int:
        return n

    def __call__(self, n: int) -> int:
        return n * self.factor


@dataclasses.dataclass(frozen=True)
class Scaled:
    """An object that can't be marked, and has a hash."""

    factor: int

    def __call__(self, n: int) -> int:
        return n * self.factor


@dataclasses.dataclass(slots=True)
class Unhashable:
    """An object that can't be marked, and has no hash."""

    factor: int

    def __call__(self, n: int) -> int:
        return n * self.factor


def add(a: int, b: int, *, c: int = 0) -> int:
    return a + b + c


async def add_later(a: int, b: int) -> int:
    return a + b


RATES = Rates()


@pytest.mark.parametrize(
    ("function", "name", "shown"),
    [
        (lambda: RATES.times, None, "times(n: int) -> int"),
        (lambda: Rates.based, None, "based(n: int) -> int"),
        (lambda: Rates.plus, None, "plus(n: int) -> int"),
        (lambda: RATES.later, None, "later(n: int) -> int"),
        (lambda: RATES, "rates", "rates(n: int) -> int"),
        (lambda: Scaled(2), "scaled", "scaled(n: int) -> int"),
        (lambda: math.sqrt, None, "sqrt(x, /)"),
    ],
    ids=["method", "classmethod", "staticmethod", "async method", "object", "frozen object", "builtin"],
)
@pytest.mark.parametrize(("register", "find"), [(Service.rpc, registered), (Service.task, registered_task)])
def test_what_is_callable_is_found_again_by_equality(
    function: Any, name: str | None, shown: str, register: Any, find: Any
) -> None:
    service = Service("callables")
    register(service, name=name)(function())
    found = find(function())
    assert str(found.signature) == shown
    assert found.signature.name == shown.partition("(")[0]
    if "int" in shown:
        assert found.signature.compile().bind([2], {}) == ([2], {})
        with pytest.raises(InvalidArguments, match="expected int, got str"):
            found.signature.compile().bind(["x"], {})


def test_a_partial_is_what_is_left_of_its_function() -> None:
    service, partly, later = Service("callables"), functools.partial(add, 1, c=2), functools.partial(add_later, 1)
    service.rpc(partly)
    service.rpc(later)
    found = registered(partly)
    assert str(found.signature) == "add(b: int, *, c: int = 2) -> int"
    assert found.signature.compile().bind([5], {"c": 7}) == ([5], {"c": 7})
    assert found.call(5) == 8
    assert registered(later).asynchronous
    assert asyncio.run(registered(later).call(2)) == 3
    with pytest.raises(ConfigurationError, match="not registered"):
        registered(functools.partial(add, 1, c=2))


def test_the_method_of_another_object_is_another_function() -> None:
    service, other = Service("callables"), Rates(5)
    service.rpc(RATES.times)
    with pytest.raises(ConfigurationError, match=r"'Rates\.times' is not registered with any service"):
        registered(other.times)
    service.rpc(other.times, name="five_times")
    assert registered(other.times).name == "five_times"
    assert registered(RATES.times).name == "times"


def test_a_registration_of_a_method_ends_with_its_service() -> None:
    rates, service = Rates(), Service("callables")
    service.rpc(rates.times)
    assert registered(rates.times).service == "callables"
    del service
    gc.collect()
    with pytest.raises(ConfigurationError, match="not registered"):
        registered(rates.times)


def test_an_object_that_has_neither_hash_nor_attributes_is_called_by_its_name() -> None:
    service, scaled = Service("callables"), Unhashable(2)
    service.rpc(scaled, name="scaled")
    with pytest.raises(ConfigurationError, match="call it by its name as text"):
        registered(scaled)


def test_a_staticmethod_may_be_registered_in_the_class_s_body() -> None:
    service = Service("callables")

    class Body:
        @service.rpc
        @staticmethod
        def above(n: int) -> int:
            return n

        @staticmethod
        @service.rpc
        def below(n: int) -> int:
            return n

    assert registered(Body.above).call(1) == registered(Body.below).call(1) == 1
    assert registered(Body().above).name == "above"


@pytest.mark.parametrize("first", ["self", "cls"])
@pytest.mark.parametrize("decorator", ["rpc", "task", "subscribe('x')"])
def test_a_method_in_a_class_s_body_is_refused_in_one_line(first: str, decorator: str) -> None:
    program = f"class Body:\n    @service.{decorator}\n    def method({first}, x): ..."
    with pytest.raises(ConfigurationError, match=r"<string>:\d: method\(\) is a method in a class's body.* below it: "):
        exec(program, {"service": Service("callables")})


def test_a_classmethod_in_a_class_s_body_is_refused_in_one_line() -> None:
    service = Service("callables")
    with pytest.raises(ConfigurationError, match=r"can't take a classmethod .* service\.rpc\(….method\)"):

        class Body:
            @service.rpc
            @classmethod
            def method(cls) -> None: ...


def test_a_function_that_only_names_its_parameter_self_is_one() -> None:
    service = Service("callables")

    @service.rpc
    def method(self: int) -> int:
        return self

    assert registered(method).name == "method"


def test_an_object_without_a_name_needs_one() -> None:
    with pytest.raises(ConfigurationError, match=r"@service\.rpc needs a name for an object of class Rates: name='…'"):
        Service("callables").rpc(Rates())


LATER = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from somewhere import Nowhere
@service.rpc
def f(x: Later, y: list[Later] | None = None) -> Later: return x
@service.task
def t(x: Later) -> None: ...
@service.subscribe("x")
def e(x: Later) -> None: ...
@service.rpc
def never(x: Nowhere, /) -> list[Nowhere]: ...
from dataclasses import dataclass
@dataclass
class Later:
    n: int
"""


@pytest.mark.parametrize(
    "program",
    [
        LATER,
        pytest.param(
            LATER.replace("from __future__ import annotations", ""),
            marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 evaluates annotations lazily"),
        ),
    ],
    ids=["as text", "lazily"],
)
def test_a_name_that_is_defined_later_or_never_is_read_when_it_is_needed(program: str) -> None:
    module = types.ModuleType("later")
    module.service = Service("callables")  # type: ignore[attr-defined]
    sys.modules["later"] = module
    try:
        exec(program, vars(module))
        signature = registered(module.f).signature
        assert str(signature) == "f(x: Later, y: list[Later] | None = None) -> Later"
        assert signature.compile().bind([{"n": 1}], {}) == ([module.Later(1)], {})
        assert registered_task(module.t).signature.compile().bind([{"n": 1}], {}) == ([module.Later(1)], {})
        assert str(registered(module.never).signature) == "never(x: Nowhere, /) -> list[Nowhere]"
        with pytest.raises(
            ConfigurationError, match=r"never\(\) has a type hint that fails: name 'Nowhere' is not defined"
        ):
            registered(module.never).signature.verify()
    finally:
        del sys.modules["later"]
