"""Arguments are checked and converted by type hints, and every refusal names the parameter and what it takes."""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, TypedDict
from uuid import UUID

import msgspec
import pytest

from amqp_rpc.errors import ConfigurationError, InvalidArguments
from amqp_rpc.service.signature import Signature


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    next: Point | None = None


class Options(TypedDict):
    deep: bool


class Opaque:
    pass


def fib(n: int) -> int: ...
def charge(card: str, amount: int = 1, *, note: str | None = None) -> None: ...
def only_by_position(a: int, /, b: int) -> None: ...
def needs_name(a: int = 1, *, b: int) -> None: ...
def summed(first: int, *rest: int) -> None: ...
def named(**fields: int) -> None: ...
def free(a, b=2): ...
def nothing() -> None: ...
def later(item: Later) -> None: ...
def late_none(n: int = None) -> None: ...  # noqa: RUF013 - as many write it


class Later:
    """Stands below the function whose hint names it; it can't be sent."""


def bind(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    return Signature(function, function.__name__).compile().bind(list(args), kwargs)


def taking(hint: Any, default: Any = dataclasses.MISSING) -> Callable[..., Any]:
    """A function ``f`` with one parameter ``x`` of that type."""

    def f(x): ...

    f.__annotations__ = {"x": hint}
    if default is not dataclasses.MISSING:
        f.__defaults__ = (default,)
    return f


def refusal(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        bind(function, *args, **kwargs)
    return str(caught.value)


class TestBinding:
    @pytest.mark.parametrize(
        ("function", "args", "kwargs"),
        [
            (fib, [30], {}),
            (fib, [], {"n": 30}),
            (charge, ["c"], {}),
            (charge, ["c", 2], {"note": "hi"}),
            (charge, [], {"card": "c", "note": None}),
            (only_by_position, [1], {"b": 2}),
            (needs_name, [], {"b": 2}),
            (needs_name, [1], {"b": 2}),
            (summed, [1, 2, 3], {}),
            (named, [], {"a": 1, "self": 2, "args": 3}),
            (free, ["x", {"any": [1]}], {}),
            (nothing, [], {}),
            (late_none, [None], {}),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_what_fits_is_passed_as_it_was_given(self, function, args, kwargs):
        assert (args, kwargs) == bind(function, *args, **kwargs)

    @pytest.mark.parametrize(
        ("function", "args", "kwargs", "message"),
        [
            (fib, [], {}, "fib() got no 'n' (parameters: n)"),
            (fib, [1, 2], {}, "fib() takes 1 argument (parameters: n), and 2 came by position"),
            (fib, [1], {"n": 1}, "fib() got parameter 'n' twice: by position and by name"),
            (fib, [1], {"m": 1}, "fib() has no parameter 'm' (parameters: n)"),
            (charge, [], {}, "charge() got no 'card' (parameters: card, amount, note)"),
            (
                charge,
                ["c", 1, "n"],
                {},
                "charge() takes 2 arguments (parameters: card, amount, note), and 3 came by position",
            ),
            (only_by_position, [], {}, "only_by_position() got no 'a' and 'b' (parameters: a, b)"),
            (only_by_position, [], {"a": 1, "b": 2}, "only_by_position() has no parameter 'a' (parameters: a, b)"),
            (needs_name, [], {}, "needs_name() got no 'b' (parameters: a, b)"),
            (needs_name, [1], {}, "needs_name() got no 'b' (parameters: a, b)"),
            (summed, [], {}, "summed() got no 'first' (parameters: first)"),
            (summed, [1, 2], {"first": 1}, "summed() got parameter 'first' twice: by position and by name"),
            (nothing, [1], {}, "nothing() takes no arguments (it has no parameters), and 1 came by position"),
            (nothing, [], {"a": 1}, "nothing() has no parameter 'a' (it has no parameters)"),
        ],
    )
    def test_what_does_not_fit_is_refused_in_these_words(self, function, args, kwargs, message):
        assert message == refusal(function, *args, **kwargs)

    @pytest.mark.parametrize(
        ("function", "args", "kwargs", "message"),
        [
            (fib, ["30"], {}, "fib(): parameter 'n': expected int, got str; it was '30'"),
            (fib, [True], {}, "fib(): parameter 'n': expected int, got bool; it was True"),
            (fib, [None], {}, "fib(): parameter 'n': expected int, got null; it was None"),
            (charge, ["c"], {"amount": 1.5}, "charge(): parameter 'amount': expected int, got float; it was 1.5"),
            (charge, ["c"], {"note": 1}, "charge(): parameter 'note': expected str | null, got int; it was 1"),
            (summed, [1, "x"], {}, "summed(): parameter 'rest': expected int, got str; it was 'x'"),
            (named, [], {"a": "x"}, "named(): parameter 'fields': expected int, got str; it was 'x'"),
            (taking(str), [b"x"], {}, "f(): parameter 'x': expected str, got bytes; it was b'x'"),
            (taking(list[int]), [[1, "a"]], {}, "f(): parameter 'x': expected int, got str - at x[1]; it was [1, 'a']"),
            (taking(Color), ["blue"], {}, "f(): parameter 'x': invalid enum value 'blue' (x is Color); it was 'blue'"),
            (
                taking(Literal["a", "b"]),
                ["c"],
                {},
                "f(): parameter 'x': invalid enum value 'c' (x is Literal['a', 'b']); it was 'c'",
            ),
            (
                taking(Point),
                [{"x": 1, "next": {"x": "a"}}],
                {},
                "f(): parameter 'x': expected int, got str - at x.next.x; it was {'next': {'x': 'a'}, 'x': 1}",
            ),
            (
                taking(Options),
                [{}],
                {},
                "f(): parameter 'x': object missing required field deep (x is Options); it was {}",
            ),
            (
                taking(datetime),
                ["soon"],
                {},
                "f(): parameter 'x': invalid RFC3339 encoded datetime (x is datetime); it was 'soon'",
            ),
        ],
    )
    def test_a_wrong_type_is_refused_with_the_parameter_the_place_and_the_value(self, function, args, kwargs, message):
        assert message == refusal(function, *args, **kwargs)

    def test_a_huge_value_is_shown_in_brief(self):
        assert len(refusal(fib, "9" * 1_000_000)) < 150

    @pytest.mark.parametrize("value", [10**5000, [10**5000], "\ud800"], ids=["long number", "in a list", "half"])
    def test_a_value_without_a_text_is_refused_like_any_other(self, value):
        assert refusal(taking(dict), value).startswith("f(): parameter 'x': ")

    def test_a_number_too_large_for_a_float_is_refused(self):
        assert "parameter 'x'" in refusal(taking(float), 10**400)


class TestConversion:
    @pytest.mark.parametrize(
        ("hint", "sent", "arrives"),
        [
            (float, 3, 3.0),
            (int, 2**70, 2**70),
            (int | None, 2**70, 2**70),
            (Optional[int], None, None),  # noqa: UP045 - the older spelling
            (list[int], [1, 2**70], [1, 2**70]),
            (tuple[int, str], [1, "a"], (1, "a")),
            (set[int], [1, 2], {1, 2}),
            (set[int], {1, 2}, {1, 2}),
            (frozenset[str], ["a"], frozenset({"a"})),
            (dict[str, int], {"a": 1}, {"a": 1}),
            (dict[int, str], {1: "a"}, {1: "a"}),
            (Sequence[int], [1], [1]),
            (Mapping[str, int], {"a": 1}, {"a": 1}),
            (Color, "red", Color.RED),
            (Point, {"x": 1, "next": {"x": 2}}, Point(1, Point(2))),
            (Options, {"deep": True}, {"deep": True}),
            (Literal["a", 1], "a", "a"),
            (datetime, "2026-01-31T00:00:00Z", datetime(2026, 1, 31, tzinfo=UTC)),
            (datetime, datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)),
            (date, "2026-01-31", date(2026, 1, 31)),
            (Decimal, "1.10", Decimal("1.10")),
            (UUID, "00000000-0000-0000-0000-000000000005", UUID(int=5)),
            (bytes, b"x", b"x"),
            (Annotated[int, msgspec.Meta(ge=0)], 5, 5),
            (Any, {"a": [object]}, {"a": [object]}),
        ],
        ids=repr,
    )
    def test_a_value_becomes_what_the_hint_says(self, hint, sent, arrives):
        ((converted,), _) = bind(taking(hint), sent)
        assert (arrives, type(arrives)) == (converted, type(converted))

    def test_a_bound_in_the_hint_holds(self):
        assert "expected int >= 0" in refusal(taking(Annotated[int, msgspec.Meta(ge=0)]), -1)

    @pytest.mark.parametrize("hint", [int, list[int], Literal["a"], Options, Point], ids=str)
    def test_a_default_of_none_may_be_sent(self, hint):
        assert bind(taking(hint, None), None) == ([None], {})


class TestText:
    @pytest.mark.parametrize(
        ("function", "text", "argument"),
        [
            (fib, "30", 30),
            (fib, "-5", -5),
            (taking(float), "2.5", 2.5),
            (taking(bool), "true", True),
            (taking(str), "30", "30"),
            (taking(Any), "30", "30"),
            (taking(int | None), "null", None),
            (taking(Color), "red", Color.RED),
            (taking(date), "2026-01-31", date(2026, 1, 31)),
            (charge, "card", "card"),
            (summed, "1", 1),
            (free, "x", "x"),
        ],
    )
    def test_one_text_is_the_first_argument_of_the_functions_type(self, function, text, argument):
        assert Signature(function, "f").compile().bind_body(text) == ([argument], {})

    @pytest.mark.parametrize(
        ("function", "text", "message"),
        [
            (fib, "many", "fib(): parameter 'n': expected int, got str; it was 'many'"),
            (fib, "", "fib(): parameter 'n': expected int, got str; it was ''"),
            (nothing, "x", "nothing() can't be called with one text (it has no parameters)"),
            (only_by_position, "1", "only_by_position() can't be called with one text (parameters: a, b)"),
            (needs_name, "1", "needs_name() can't be called with one text (parameters: a, b)"),
            (named, "x", "named() can't be called with one text (it has no parameters)"),
        ],
    )
    def test_one_that_does_not_fit_is_refused_in_these_words(self, function, text, message):
        with pytest.raises(InvalidArguments) as caught:
            Signature(function, function.__name__).compile().bind_body(text)
        assert message == str(caught.value)

    @pytest.mark.parametrize("text", ["9" * 5000, "9" * 1_000_000, "1e999999999"], ids=["long", "huge", "power"])
    def test_a_text_that_is_no_sane_number_is_refused(self, text):
        with pytest.raises(InvalidArguments):
            Signature(fib, "fib").compile().bind_body(text)


class TestRegistration:
    @pytest.mark.parametrize("name", ["timeout", "idempotent", "wait_for_server", "on_progress"])
    def test_a_parameter_named_like_an_option_of_call_is_refused(self, name):
        namespace: dict[str, Any] = {}
        exec(f"def f(a, {name}=1): ...", namespace)
        with pytest.raises(
            ConfigurationError, match=rf"f\(\) has a parameter named '{name}', which is an option of client"
        ):
            Signature(namespace["f"], "f")

    def test_by_position_alone_such_a_name_is_harmless(self):
        def wait(timeout: int, /) -> None: ...

        assert bind(wait, 5) == ([5], {})

    @pytest.mark.parametrize(("stars", "kind"), [("*", "args"), ("**", "kwargs")])
    def test_any_number_of_arguments_without_a_hint_is_refused(self, stars, kind):
        namespace: dict[str, Any] = {}
        exec(f"def f({stars}{kind}): ...", namespace)
        with pytest.raises(ConfigurationError, match=rf"f\(\) takes \{stars[0]}.*{kind} without a type hint"):
            Signature(namespace["f"], "f")

    @pytest.mark.parametrize(
        "hint", [Opaque, list[Opaque], dict[str, Opaque | None], range, Iterator[int], list[int] | tuple[int, ...]]
    )
    def test_a_type_that_cannot_be_sent_is_refused_by_name(self, hint):
        with pytest.raises(ConfigurationError, match=r"f\(x: .*\): "):
            Signature(taking(hint), "f")

    def test_a_refusal_names_the_file_and_the_line(self):
        line = taking.__code__.co_firstlineno + 3
        with pytest.raises(
            ConfigurationError,
            match=rf"{__file__}:{line}: f\(x: Opaque\): Opaque can't be sent; take one of: None, bool, ",
        ):
            Signature(taking(Opaque), "f")

    def test_a_hint_that_fails_is_refused(self):
        with pytest.raises(ConfigurationError, match=r"f\(\) has a type hint that fails: division by zero"):
            Signature(taking("1/0"), "f")

    def test_a_dataclass_whose_fields_name_a_later_class_is_resolved_when_it_is_needed(self):
        module = types.ModuleType("module")
        vars(module).update(dataclasses=dataclasses)
        sys.modules["module"] = module
        try:
            exec("@dataclasses.dataclass\nclass Line:\n    end: 'Point'\ndef f(line: Line) -> None: ...", vars(module))
            signature = Signature(module.f, "f")
            with pytest.raises(ConfigurationError, match="has a type hint that fails: name 'Point' is not defined"):
                signature.compile()
            module.Point = Point
            assert signature.compile().bind([{"end": {"x": 1}}], {}) == ([module.Line(Point(1))], {})
        finally:
            del sys.modules["module"]

    def test_a_hint_that_names_a_later_class_is_resolved_when_it_is_needed(self):
        module = types.ModuleType("module")
        exec("def f(point: 'Point') -> None: ...", vars(module))
        signature = Signature(module.f, "f")
        module.Point = Point
        assert signature.compile().bind([{"x": 1}], {}) == ([Point(1)], {})

    def test_a_hint_that_never_resolves_is_refused_when_it_is_needed(self):
        signature = Signature(taking("Nowhere"), "f")
        with pytest.raises(
            ConfigurationError, match=r"f\(\) has a type hint that fails: name 'Nowhere' is not defined"
        ):
            signature.compile()

    def test_a_later_class_that_cannot_be_sent_is_refused(self):
        with pytest.raises(ConfigurationError, match="Later can't be sent"):
            Signature(later, "later").compile()

    def test_a_method_takes_what_stands_behind_self(self):
        class Bank:
            def charge(self, amount: int) -> int: ...

        assert bind(Bank().charge, 5) == ([5], {})

    def test_a_wrapped_function_takes_what_the_inner_one_takes(self):
        @functools.wraps(fib)
        def wrapper(*args, **kwargs): ...

        assert refusal(wrapper, "x") == "fib(): parameter 'n': expected int, got str; it was 'x'"

    def test_a_lambda_takes_anything(self):
        assert Signature(lambda x, y=1: x + y, "f").compile().bind(["a"], {"y": None}) == (["a"], {"y": None})

    def test_a_builtin_without_type_hints_takes_anything(self):
        assert bind(len, "x") == (["x"], {})

    def test_a_builtin_without_a_signature_is_refused(self):
        with pytest.raises(ConfigurationError, match=r"max\(\) can't be registered: no signature found"):
            Signature(max, "max")


class TestBeingShown:
    @pytest.mark.parametrize(
        ("function", "text"),
        [
            (fib, "fib(n: int) -> int"),
            (charge, "charge(card: str, amount: int = 1, *, note: str | None = None) -> None"),
            (free, "free(a, b=2)"),
            (summed, "summed(first: int, *rest: int) -> None"),
        ],
    )
    def test_a_signature_is_shown_as_a_person_writes_it(self, function, text):
        assert text == str(Signature(function, function.__name__))


class TestResults:
    @pytest.mark.parametrize(
        ("hint", "came", "result"),
        [
            (Point, {"x": 1}, Point(1)),
            (tuple[int, int], [1, 2], (1, 2)),
            (Color, "red", Color.RED),
            (int, 5, 5),
            (None, None, None),
            (Any, [1], [1]),
            (list[int] | tuple[int, ...], [1], [1]),
        ],
        ids=repr,
    )
    def test_a_result_becomes_what_the_function_is_annotated_with(self, hint, came, result):
        function = taking(int)
        function.__annotations__["return"] = hint
        converted = Signature(function, "f").compile().convert_result(came)
        assert (result, type(result)) == (converted, type(converted))

    def test_a_result_of_another_type_is_refused(self):
        with pytest.raises(msgspec.ValidationError):
            Signature(fib, "fib").compile().convert_result("55")
