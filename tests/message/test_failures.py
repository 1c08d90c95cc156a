"""A handler's exception arrives as what it was, and an error's map can neither run code nor crash who reads it."""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
import json
import pickle
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc import errors
from amqp_rpc.errors import (
    AmqpRpcError,
    ConfigurationError,
    InvalidArguments,
    MessageTooLarge,
    RemoteError,
    Undecodable,
)
from amqp_rpc.message import codec
from amqp_rpc.message.failures import describe_raised, describe_verdict, rebuild, register_error


def over(error: BaseException, traceback: str | None = None) -> AmqpRpcError:
    """The error as a client raises it, after the way over the wire."""
    body = codec.encode(describe_raised(error, traceback=traceback), codec.MSGPACK, limit=100_000)
    return rebuild(codec.decode(body, codec.MSGPACK, limit=100_000))


@register_error
class CardDeclined(Exception):
    def __init__(self, card: str, *, amount: int) -> None:
        super().__init__(f"card {card} declined")
        self.card = card
        self.amount = amount
        self._secret = "hidden"


@register_error
class Fussy(Exception):
    def __new__(cls, one, two):
        return super().__new__(cls, one, two)


@register_error
@dataclasses.dataclass
class Stock(Exception):
    left: int


@register_error(name="shop.OutOfStock")
class OutOfStock(Exception):
    pass


class Unregistered(Exception):
    pass


class TestRebuilding:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("bad"),
            ValueError(),
            KeyError("k"),
            TypeError("t"),
            ZeroDivisionError("division by zero"),
            OSError(2, "No such file or directory"),
            FileNotFoundError(2, "No such file or directory"),
            TimeoutError("slow"),
            ConnectionResetError(104, "reset"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
            SyntaxError("bad", ("f.py", 1, 2, "x", 1, 3)),
            ImportError("no", name="x"),
            AttributeError("a"),
            NameError("n"),
            RecursionError("deep"),
            MemoryError("full"),
            NotImplementedError("later"),
            UserWarning("w"),
            StopIteration(5),
            StopAsyncIteration(5),
            ExceptionGroup("several", [ValueError(1), TypeError(2)]),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_builtin_is_a_remote_error_with_the_same_text_and_type_name(self, error):
        rebuilt = over(error)
        assert isinstance(rebuilt, RemoteError)
        assert (type(error).__name__, str(error), str(error)) == (rebuilt.type, rebuilt.message, str(rebuilt))

    @pytest.mark.parametrize("error", [ValueError("bad"), KeyError("k"), OSError(2, "x"), ArithmeticError(), Warning()])
    def test_a_builtin_is_also_caught_as_itself(self, error):
        assert isinstance(over(error), type(error))

    @pytest.mark.parametrize("args", [(), ("a",), ("a", 1, None, 2.5, b"x"), ([1, "b"],)])
    def test_plain_arguments_arrive_as_they_were(self, args):
        assert args == over(ValueError(*args)).args

    def test_an_argument_that_is_no_plain_value_arrives_as_its_text(self):
        assert over(ValueError({"a": 1}, (1, [2]))).args == ("{'a': 1}", [1, "[2]"])

    def test_an_operating_system_error_keeps_its_number(self):
        assert over(FileNotFoundError(2, "No such file or directory")).errno == 2

    def test_a_builtin_whose_attributes_are_not_restored_can_still_be_shown(self):
        rebuilt = over(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
        assert "invalid start byte" in str(rebuilt)
        assert "UnicodeDecodeError" in repr(rebuilt)

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
    def test_what_would_end_the_caller_arrives_as_a_plain_remote_error(self, error):
        rebuilt = over(error)
        assert (RemoteError, type(error).__name__) == (type(rebuilt), rebuilt.type)

    def test_a_registered_class_arrives_with_its_attributes_and_without_calling_its_init(self):
        rebuilt = over(CardDeclined("1234", amount=5))
        assert isinstance(rebuilt, CardDeclined)
        assert isinstance(rebuilt, RemoteError)
        assert (rebuilt.card, rebuilt.amount, str(rebuilt)) == ("1234", 5, "card 1234 declined")
        assert rebuilt.type == f"{__name__}.CardDeclined"

    def test_private_attributes_stay_at_home(self):
        assert not hasattr(over(CardDeclined("1234", amount=5)), "_secret")

    def test_attributes_that_are_too_large_are_left_out(self):
        error = CardDeclined("1234", amount=5)
        error.log = "x" * 20_000
        assert over(error).message == "card 1234 declined"

    def test_a_class_whose_new_takes_arguments_arrives(self):
        rebuilt = over(Fussy(1, 2))
        assert isinstance(rebuilt, RemoteError)
        assert rebuilt.type == f"{__name__}.Fussy"

    def test_a_dataclass_arrives_with_its_fields(self):
        assert over(Stock(3)).left == 3

    def test_an_unknown_class_becomes_a_plain_remote_error(self):
        rebuilt = over(Unregistered("what"), traceback="Traceback: here")
        assert type(rebuilt) is RemoteError
        assert (rebuilt.type, rebuilt.message, rebuilt.traceback) == (
            f"{__name__}.Unregistered",
            "what",
            "Traceback: here",
        )

    def test_without_a_traceback_there_is_none(self):
        assert over(ValueError("x")).traceback is None

    def test_the_servers_traceback_is_shown_below_the_callers(self):
        assert over(ValueError("x"), traceback="Traceback: here\n").__notes__ == ["\nOn the server:\n  Traceback: here"]

    def test_an_error_that_crosses_twice_keeps_its_class_and_name(self):
        twice = over(over(ValueError("bad")))
        assert isinstance(twice, ValueError)
        assert (twice.type, twice.message) == ("ValueError", "bad")

    @pytest.mark.parametrize("error", [ValueError("bad"), Stock(3), Unregistered("what")])
    def test_a_copy_says_the_same(self, error):
        rebuilt = over(error)
        copied = copy.copy(rebuilt)
        assert (type(rebuilt), rebuilt.type, str(rebuilt)) == (type(copied), copied.type, str(copied))

    def test_a_plain_one_can_cross_to_another_process(self):
        rebuilt = over(Unregistered("what"))
        loaded = pickle.loads(pickle.dumps(rebuilt))
        assert (rebuilt.type, str(rebuilt)) == (loaded.type, str(loaded))

    def test_the_function_ran_whatever_it_raised(self):
        assert over(ValueError()).may_have_run
        assert over(Unregistered()).may_have_run
        assert over(errors.NoServer("of the handler's own call")).may_have_run


class TestRegistering:
    @pytest.mark.parametrize("wrong", [int, SystemExit, BaseException, ValueError("x"), "ValueError"])
    def test_only_exception_classes_can_be_registered(self, wrong):
        with pytest.raises(ConfigurationError, match="takes an exception class"):
            register_error(wrong)

    def test_the_same_class_may_be_registered_twice(self):
        assert register_error(CardDeclined) is CardDeclined

    def test_two_classes_of_one_name_are_refused(self):
        twin = type("CardDeclined", (Exception,), {"__module__": __name__, "__qualname__": "CardDeclined"})
        with pytest.raises(
            ConfigurationError, match=r"two exception classes are named '.*CardDeclined'; give one of them name="
        ):
            register_error(twin)

    def test_a_class_registered_under_a_name_arrives_by_it(self):
        assert over(OutOfStock("tea")).type == "shop.OutOfStock"
        assert isinstance(over(OutOfStock("tea")), OutOfStock)

    def test_one_that_crosses_twice_keeps_its_name(self):
        twice = over(over(OutOfStock("tea")))
        assert isinstance(twice, OutOfStock)
        assert twice.type == "shop.OutOfStock"

    @pytest.mark.parametrize("name", ["ValueError", "Expired", "shop.OutOfStock"])
    def test_a_name_that_means_something_else_is_refused(self, name):
        own = type("Own", (Exception,), {})
        with pytest.raises(ConfigurationError, match="two exception classes are named"):
            register_error(name=name)(own)


class TestVerdicts:
    @pytest.mark.parametrize(
        "error",
        [
            errors.FunctionNotFound("no function"),
            errors.InvalidArguments("no 'n'"),
            errors.NotAuthorized("not you"),
            errors.Expired("over"),
            errors.MaybeExecuted("died"),
            errors.Undecodable("bytes"),
            errors.Unencodable("object"),
            errors.MessageTooLarge("17 MiB"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_the_server_says_arrives_as_itself(self, error):
        rebuilt = rebuild(describe_verdict(error))
        assert (type(error), str(error), error.may_have_run) == (type(rebuilt), str(rebuilt), rebuilt.may_have_run)

    def test_a_result_that_could_not_be_sent_was_computed(self):
        assert rebuild({**describe_verdict(MessageTooLarge("x")), "data": {"ran": True}}).may_have_run

    def test_arguments_that_do_not_fit_never_ran_whatever_the_map_says(self):
        assert not rebuild({**describe_verdict(InvalidArguments("x")), "data": {"ran": True}}).may_have_run

    def test_a_handler_that_raises_the_same_class_is_not_taken_for_the_server(self):
        rebuilt = over(Undecodable("of the handler"))
        assert isinstance(rebuilt, RemoteError)
        assert rebuilt.may_have_run


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class TestWhatHandlersRaise:
    @pytest.mark.parametrize(
        "error",
        [
            NoText(),
            ValueError(NoText()),
            ValueError([NoText()]),
            ValueError("\ud800"),
            ValueError(float("nan")),
            ValueError(2**70),
            ValueError(10**5000),
            ExceptionGroup("g", [NoText()]),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_every_exception_can_be_described(self, error):
        assert type(error).__qualname__ in describe_raised(error, traceback=None)["type"]

    @pytest.mark.parametrize("attributes", [{1: 2}, {"bad": NoText()}, {"own": object()}, {"big": 10**5000}])
    def test_every_attribute_can_be_described(self, attributes):
        error = Unregistered("x")
        error.__dict__.update(attributes)
        described = describe_raised(error, traceback=None)
        assert codec.encode(described, codec.MSGPACK, limit=100_000)


class TestHostileMaps:
    @pytest.mark.parametrize(
        "described",
        [
            None,
            [],
            5,
            "text",
            b"\xff",
            pytest.param(10**5000, id="a long number"),
            {},
            {1: 2},
            {"type": None},
            {"type": []},
            {"type": 10**5000},
            {"type": "ValueError", "message": 10**5000},
            {"type": "ValueError", "data": []},
            {"type": "ValueError", "data": {"args": 5}},
            {"type": "ValueError", "data": {"args": {"a": 1}}},
            {"type": "ValueError", "data": {"args": "text"}},
            {"type": "ValueError", "data": {"attributes": [1]}},
            {"type": "ValueError", "data": {"attributes": {1: 2}}},
            {"type": "ValueError", "traceback": 5},
            {"type": "ValueError", "traceback": "t", "data": {"attributes": {"add_note": 1}}},
            {"type": "ValueError", "traceback": "t", "data": {"attributes": {"__notes__": 1}}},
            {"type": "UnicodeDecodeError", "data": {"args": [1]}},
            {"type": "ExceptionGroup", "data": {"args": []}},
            {"type": "MemoryError"},
            {"type": "BaseException"},
            {"type": "SystemExit", "data": {"args": [3]}},
            {"type": "os.system", "data": {"args": ["true"]}},
            {"type": "Undecodable", "data": 5},
            {"type": "InvalidArguments", "message": None, "data": {"ran": []}},
        ],
    )
    def test_a_map_of_any_shape_becomes_an_error_that_can_be_shown(self, described):
        rebuilt = rebuild(described)
        assert isinstance(rebuilt, AmqpRpcError)
        assert isinstance(str(rebuilt), str)

    @pytest.mark.parametrize("name", ["type", "message", "may_have_run", "traceback", "__class__", "__dict__", "args"])
    def test_attributes_cannot_replace_what_the_error_says(self, name):
        rebuilt = rebuild(
            {"type": "ValueError", "message": "bad", "data": {"args": ["bad"], "attributes": {name: False}}}
        )
        assert isinstance(rebuilt, ValueError)
        assert (rebuilt.type, rebuilt.message, rebuilt.args, rebuilt.traceback) == ("ValueError", "bad", ("bad",), None)
        assert rebuilt.may_have_run is True

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
        ),
        max_leaves=8,
    )
    names = st.sampled_from(["ValueError", "OSError", "SyntaxError", "ExceptionGroup", "Expired", "Unencodable", "X"])

    @settings(max_examples=60, deadline=None)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "type": names | values,
                "message": values,
                "traceback": values,
                "data": values
                | st.fixed_dictionaries({}, optional={"args": values, "attributes": values, "ran": values}),
            },
        )
    )
    def test_arbitrary_maps_become_errors(self, described):
        assert isinstance(rebuild(described), AmqpRpcError)


class Declined(KeyError):
    """A class that only the server knows."""


class Missing(FileNotFoundError):
    pass


class Several(ExceptionGroup):
    pass


def caused() -> BaseException:
    """An exception with a cause, which has one too."""
    error = ValueError("bad order")
    error.__cause__ = KeyError("price")
    error.__cause__.__cause__ = OSError(5, "disk")
    return error


class TestWhatElseAnExceptionHas:
    def test_a_group_has_its_exceptions(self):
        rebuilt = over(ExceptionGroup("many", [ValueError("a", 1), ExceptionGroup("inner", [KeyError("k")])]))
        assert isinstance(rebuilt, ExceptionGroup)
        assert isinstance(rebuilt, RemoteError)
        assert rebuilt.args[0] == "many"
        first, second = rebuilt.exceptions
        assert isinstance(first, ValueError)
        assert first.args == ("a", 1)
        assert isinstance(second.exceptions[0], KeyError)

    def test_except_star_takes_a_group_apart(self):
        caught = []
        try:
            raise over(ExceptionGroup("many", [ValueError("a"), TypeError("t"), ValueError("b")]))
        except* ValueError as group:
            caught += [str(each) for each in group.exceptions]
        except* TypeError as group:
            caught += [str(each) for each in group.exceptions]
        assert caught == ["a", "b", "t"]

    @pytest.mark.parametrize("group", [Several("s", [ValueError(1)]), BaseExceptionGroup("s", [KeyboardInterrupt()])])
    def test_a_group_of_another_class_is_a_group(self, group):
        rebuilt = over(group)
        assert isinstance(rebuilt, ExceptionGroup)
        assert rebuilt.type.endswith(type(group).__name__)
        assert isinstance(rebuilt.exceptions[0], RemoteError)

    @pytest.mark.parametrize(
        ("error", "nearest"),
        [
            (json.JSONDecodeError("bad", "{", 1), ValueError),
            (Declined("k"), KeyError),
            (Missing(2, "no", "a.txt"), FileNotFoundError),
            (ipaddress.AddressValueError("x"), ValueError),
            (subprocess.TimeoutExpired("ls", 3), RemoteError),
            (UnicodeError("u"), UnicodeError),
        ],
        ids=lambda value: getattr(type(value), "__name__", ""),
    )
    def test_a_class_that_is_not_known_here_is_its_nearest_builtin(self, error, nearest):
        rebuilt = over(error)
        assert isinstance(rebuilt, nearest)
        assert rebuilt.type.endswith(type(error).__name__)
        assert (str(rebuilt), rebuilt.args) == (str(error), error.args if nearest is not RemoteError else rebuilt.args)

    def test_its_attributes_come_along(self):
        assert over(json.JSONDecodeError("bad", "{", 1)).pos == 1

    def test_an_operating_system_error_has_its_files(self):
        rebuilt = over(OSError(18, "cross-device link", "a.txt", None, "b.txt"))
        assert (rebuilt.errno, rebuilt.filename, rebuilt.filename2) == (18, "a.txt", "b.txt")

    @pytest.mark.parametrize(
        ("error", "name", "value"),
        [
            (ModuleNotFoundError("no", name="numpy"), "name", "numpy"),
            (AttributeError("no", name="size"), "name", "size"),
            (SyntaxError("bad", ("f.py", 3, 2, "x =", 3, 3)), "lineno", 3),
        ],
    )
    def test_other_builtins_have_their_own(self, error, name, value):
        assert getattr(over(error), name) == value

    def test_notes_arrive_before_the_server_s_traceback(self):
        error = ValueError("bad")
        error.add_note("order 7")
        rebuilt = over(error, traceback="Traceback ...")
        assert rebuilt.__notes__ == ["  order 7", "\nOn the server:\n  Traceback ..."]

    def test_a_cause_arrives_with_its_own(self):
        rebuilt = over(caused())
        assert isinstance(rebuilt.__cause__, KeyError)
        assert isinstance(rebuilt.__cause__.__cause__, OSError)
        assert rebuilt.__cause__.__cause__.errno == 5

    def test_a_circle_of_causes_ends(self):
        error = ValueError("a")
        error.__cause__ = KeyError("b")
        error.__cause__.__cause__ = error
        assert isinstance(over(error), ValueError)

    @pytest.mark.parametrize("error", [ExceptionGroup("g", [ValueError(1)]), caused(), Missing(2, "no", "a")])
    def test_a_reader_that_knows_nothing_of_it_has_the_type_and_the_text(self, error):
        described = describe_raised(error, traceback=None)
        old = {key: described["data"][key] for key in ("args", "attributes") if key in described["data"]}
        rebuilt = rebuild({**described, "data": old})
        assert (rebuilt.type.endswith(type(error).__name__), str(rebuilt)) == (True, str(error))

    @pytest.mark.parametrize("name", ["bases", "fields", "notes", "exceptions", "cause"])
    @pytest.mark.parametrize("value", [None, 1, "x", [1], [[]], {"a": 1}, [{"type": 1}], {"cause": {"cause": {}}}])
    def test_whatever_it_has_there_is_no_trap(self, name, value):
        rebuilt = rebuild({"type": "OSError", "message": "m", "data": {"args": [2, "no"], name: value}})
        assert isinstance(rebuilt, RemoteError)
        assert str(rebuilt) == "m"
