"""Models of pydantic and classes of attrs are arguments and results, with their bounds, where they are installed."""

import dataclasses
import datetime as dt
import decimal
import enum
import typing
from typing import Annotated, Any, Optional

import pytest

from amqp_rpc.errors import InvalidArguments, Unencodable
from amqp_rpc.message.codec import JSON, MSGPACK, decode, encode
from amqp_rpc.service.signature import Signature

LIMIT = 2**20


def taking(hint: Any, result: Any = Any) -> Any:
    def f(x): ...

    f.__annotations__ = {"x": hint, "return": result}
    return f


def arrived(hint: Any, value: Any, content_type: str = MSGPACK) -> Any:
    """The argument that a handler gets for a value, or for what another program sends."""
    args, kwargs = decode(encode([[value], {}], content_type, limit=LIMIT), content_type, limit=LIMIT)
    ((converted,), _) = Signature(taking(hint), "f").compile().bind(args, kwargs, binary=content_type == MSGPACK)
    return converted


def returned(hint: Any, value: Any) -> Any:
    came = decode(encode(value, MSGPACK, limit=LIMIT), MSGPACK, limit=LIMIT)
    return Signature(taking(int, hint), "f").compile().convert_result(came)


def refusal(hint: Any, value: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        arrived(hint, value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Color(enum.Enum):
    RED = "red"


class TestPydantic:
    @pytest.fixture(autouse=True)
    def models(self) -> None:
        pydantic = pytest.importorskip("pydantic")

        class Item(pydantic.BaseModel):
            name: str
            count: int = pydantic.Field(gt=0)

        class Order(pydantic.BaseModel, frozen=True):
            number: int = pydantic.Field(alias="orderNumber")
            items: list[Item]
            total: decimal.Decimal
            at: dt.datetime
            color: Color = Color.RED
            cells: dict[tuple[int, int], bytes] = pydantic.Field(default_factory=dict)

            @pydantic.computed_field
            def double(self) -> int:
                return self.number * 2

        class Key(pydantic.BaseModel, frozen=True):
            name: str

        @pydantic.dataclasses.dataclass
        class Size:
            width: int = pydantic.Field(gt=0)

        @dataclasses.dataclass
        class Basket:
            item: Item
            sizes: list[Size]

        T = typing.TypeVar("T")

        class Page(pydantic.BaseModel, typing.Generic[T]):
            of: list[T]

        self.pydantic, self.item, self.order, self.key = pydantic, Item, Order, Key
        self.size, self.basket, self.page = Size, Basket, Page

    def an_order(self) -> Any:
        return self.order(
            orderNumber=7,
            items=[self.item(name="a", count=1)],
            total=decimal.Decimal("1.10"),
            at=dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
            cells={(1, 2): b"\xff"},
        )

    def test_a_model_arrives_equal(self) -> None:
        order = self.an_order()
        assert arrived(self.order, order) == order == returned(self.order, order)

    def test_it_does_so_in_json(self) -> None:
        order = self.an_order().model_copy(update={"cells": {}})
        assert arrived(self.order, order, JSON) == order

    def test_it_does_so_in_lists_optionals_maps_and_dataclasses(self) -> None:
        item = self.item(name="a", count=1)
        for hint, value in (
            (list[self.item], [item]),
            (Optional[self.item], item),  # noqa: UP045 - the older spelling
            (self.item | None, None),
            (dict[str, list[self.item]], {"a": [item]}),
            (self.item | int, 5),
            (self.size, self.size(width=1)),
            (self.basket, self.basket(item, [self.size(width=1)])),
            (self.page[self.item], self.page[self.item](of=[item])),
            (self.pydantic.AnyUrl, self.pydantic.AnyUrl("https://example.org/a")),
        ):
            assert arrived(hint, value) == value == returned(hint, value)

    def test_it_is_a_map_for_programs_in_other_languages(self) -> None:
        assert arrived(self.item, {"name": "a", "count": 1}) == self.item(name="a", count=1)
        assert arrived(Any, self.item(name="a", count=1)) == {"name": "a", "count": 1}

    def test_bounds_hold_and_the_error_names_the_parameter(self) -> None:
        field = self.pydantic.Field(gt=0)
        for hint, sent, said in (
            (self.item, {"name": "a", "count": 0}, "input should be greater than 0 - at x.count"),
            (self.item, {}, "field required (and 1 more) - at x.name"),
            (list[self.item], [{"name": "a", "count": 0}], "greater than 0 - at x[0].count"),
            (self.basket, {"item": {"name": "a", "count": 0}, "sizes": []}, "greater than 0 - at x.item.count"),
            (self.size, {"width": 0}, "greater than 0 - at x.width"),
            (Annotated[int, field], 0, "f(): parameter 'x': input should be greater than 0"),
            (list[Annotated[int, field]], [1, 0], "greater than 0 - at x[1]"),
            (self.pydantic.PositiveInt, 0, "greater than 0"),
        ):
            assert said in refusal(hint, sent)
            assert "f(): parameter 'x': " in refusal(hint, sent)

    def test_bounds_hold_where_it_is_sent(self) -> None:
        signature = Signature(taking(Annotated[int, self.pydantic.Field(gt=0)]), "f")
        with pytest.raises(InvalidArguments, match="parameter 'x'"):
            signature.check([0], {})
        Signature(taking(self.order), "f").check([self.an_order()], {})

    def test_text_is_taken_leniently(self) -> None:
        signature = Signature(taking(Annotated[int, self.pydantic.Field(gt=0)]), "f").compile()
        assert signature.bind_body("30") == ([30], {})

    def test_a_secret_is_not_sent_by_accident(self) -> None:
        with pytest.raises(Unencodable, match=r"send secret\.get_secret_value\(\)"):
            encode(self.pydantic.SecretStr("x"), MSGPACK, limit=LIMIT)

    def test_a_model_as_a_key_is_refused_where_it_is_sent(self) -> None:
        with pytest.raises(Unencodable, match="a key of a map"):
            encode({self.key(name="a"): 1}, MSGPACK, limit=LIMIT)


class TestAttrs:
    @pytest.fixture(autouse=True)
    def classes(self) -> None:
        attrs = pytest.importorskip("attrs")

        @attrs.define
        class Item:
            name: str
            count: int = attrs.field(default=1, validator=attrs.validators.gt(0))
            _note: str = ""

        @attrs.frozen
        class Order:
            items: list[Item]
            at: dt.datetime

        @dataclasses.dataclass
        class Basket:
            item: Item | None

        self.item, self.order, self.basket = Item, Order, Basket

    def test_a_class_arrives_equal(self) -> None:
        order = self.order([self.item("a", 2, "n")], dt.datetime(2026, 1, 31, tzinfo=dt.UTC))
        assert arrived(self.order, order) == order == returned(self.order, order)
        assert arrived(self.order, order, JSON) == order

    def test_it_does_so_in_lists_optionals_maps_and_dataclasses(self) -> None:
        item = self.item("a")
        for hint, value in (
            (list[self.item], [item]),
            (self.item | None, item),
            (dict[str, self.item], {"a": item}),
            (self.basket, self.basket(item)),
        ):
            assert arrived(hint, value) == value == returned(hint, value)

    def test_validators_run_and_the_error_names_the_parameter(self) -> None:
        assert "f(): parameter 'x': " in refusal(self.item, {"name": "a", "count": 0})
        assert "must be > 0" in refusal(self.item, {"name": "a", "count": 0})
        assert "expected str, got int - at x[0].name" in refusal(list[self.item], [{"name": 5}])

    def test_a_frozen_one_as_a_key_is_refused_where_it_is_sent(self) -> None:
        with pytest.raises(Unencodable, match="a key of a map"):
            encode({self.order((), dt.datetime(2026, 1, 31, tzinfo=dt.UTC)): 1}, MSGPACK, limit=LIMIT)


class TestNumpy:
    def test_its_numbers_arrive_as_numbers_and_as_theirs_where_a_hint_asks(self) -> None:
        np = pytest.importorskip("numpy")
        for value, plain in (
            (np.int64(3), 3),
            (np.uint8(3), 3),
            (np.float32(1.5), 1.5),
            (np.float64(1.5), 1.5),
            (np.bool_(True), True),
            (np.str_("a"), "a"),
            (np.bytes_(b"a"), b"a"),
        ):
            assert (arrived(Any, value), type(arrived(Any, value))) == (plain, type(plain))
            converted = arrived(type(value), value)
            assert (converted, type(converted)) == (value, type(value))
        assert arrived(Any, [np.complex128(1 + 2j)]) == ["(1+2j)"]
        assert arrived(Any, {np.int64(3): 1}) == {3: 1}
        assert "expected int64 as int, got float" in refusal(np.int64, 1.5)
        assert "expected int8" in refusal(np.int8, 300).lower()

    def test_arrays_are_refused_with_what_to_do(self) -> None:
        np = pytest.importorskip("numpy")
        with pytest.raises(Unencodable, match=r"ndarray has no form on the wire; send array\.tolist\(\)"):
            encode(np.zeros(3), MSGPACK, limit=LIMIT)
        with pytest.raises(Unencodable, match=r"send float\(number\)"):
            encode(np.longdouble(1), MSGPACK, limit=LIMIT)
