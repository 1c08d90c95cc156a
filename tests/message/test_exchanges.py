"""Valid topics, patterns and exchanges, and the errors for the others."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc import ConfigurationError, Exchange
from amqp_rpc.message.exchanges import DEFAULT, Binding, as_exchange, bindings, check_topic, recorded

DIRECT, FANOUT, HEADERS = Exchange("d", "direct"), Exchange("f", "fanout"), Exchange("h", "headers")


@pytest.mark.parametrize(
    "pattern", ["orders.*.paid", "#", "*", "orders.#", "a", "a.#.b.*", "é.ü", "a-b.c_d", "x" * 255, "$x.+"]
)
def test_a_pattern_that_can_match_is_taken(pattern: str) -> None:
    assert bindings(DEFAULT, [pattern], None) == (Binding("amqp_rpc.events", pattern),)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a..b", "'a..b' has an empty word"),
        (".a", "has an empty word"),
        ("a.", "has an empty word"),
        ("", "'' is empty"),
        ("#x", "'#x' seems to mean"),
        ("a*", "stand for whole words"),
        ("orders.eu*.paid", "no wildcard for a part of a word"),
        ("**", "whole words"),
        ("a.##", "whole words"),
        ("x" * 256, "at most 255 bytes in AMQP, not 256"),
        ("é" * 128, "not 256"),
        ("\ud800", "text that AMQP can carry"),
        (7, "is text, such as 'orders.eu.paid', not 7"),
        (None, "is text"),
    ],
)
def test_a_pattern_that_can_never_match_is_explained(pattern: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        bindings(DEFAULT, [pattern], None)
    assert said in str(raised.value)


def test_a_topic_may_be_anything_that_amqp_carries() -> None:
    for topic in ("", "a..b", "*", "x" * 255):
        check_topic(topic)
    with pytest.raises(ConfigurationError, match="a topic has at most 255 bytes in AMQP, not 256"):
        check_topic("x" * 256)


def test_the_same_pattern_twice_is_one_binding() -> None:
    assert bindings(DEFAULT, ["a", "b", "a"], None) == (Binding(DEFAULT.name, "a"), Binding(DEFAULT.name, "b"))


@pytest.mark.parametrize(
    ("exchange", "patterns", "headers", "said"),
    [
        (DEFAULT, [], None, "needs a topic at least, '#' for every event"),
        (DIRECT, [], None, "needs a topic at least"),
        (DIRECT, ["a.*"], None, "compares topics whole"),
        (FANOUT, ["a"], None, "routes every event to every queue"),
        (FANOUT, [], {"a": 1}, "headers= is for exchanges of kind headers"),
        (DEFAULT, ["a"], {"a": 1}, "headers= is for exchanges of kind headers"),
        (HEADERS, ["a"], {"a": 1}, "compares headers alone"),
        (HEADERS, [], None, "needs headers="),
        (HEADERS, [], {"n": 2**63}, "64 bits at most"),
        (HEADERS, [], {"n": "\ud800"}, "header 'n' is text that AMQP can carry"),
        (HEADERS, [], {"x-match": "any"}, "needs headers="),
        (HEADERS, [], {"x-match": "some", "a": 1}, "x-match is all, any"),
        (HEADERS, [], {"a": 1.5}, "compares text, whole numbers and booleans"),
        (HEADERS, [], {"x-a": 1}, "'x-match': 'all-with-x'"),
        (HEADERS, [], {"x" * 256: 1}, "a header's name has at most 255 bytes"),
    ],
)
def test_what_an_exchange_does_not_look_at_is_explained(
    exchange: Exchange, patterns: list[str], headers: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        bindings(exchange, patterns, headers)
    assert said in str(raised.value)


def test_each_kind_has_its_bindings() -> None:
    assert bindings(FANOUT, [], None) == (Binding("f", ""),)
    assert bindings(DIRECT, ["info", "error"], None) == (Binding("d", "info"), Binding("d", "error"))
    assert bindings(HEADERS, [], {"b": 1, "a": "x"}) == (Binding("h", "", (("a", "x"), ("b", 1), ("x-match", "all"))),)
    assert bindings(HEADERS, [], {"x-match": "any-with-x", "x-a": True})[0].arguments == (
        ("x-a", True), ("x-match", "any-with-x"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Exchange("logs", "fan-out"), "an exchange is of kind topic, fanout, direct, headers, not 'fan-out'"),  # type: ignore[arg-type]
        (lambda: Exchange(""), "default exchange, is of kind direct, not topic: a topic is a queue's name there"),
        (lambda: bindings(Exchange("", "direct"), ["a"], None), "binds every queue by its name"),
        (lambda: Exchange("x" * 256), "at most 255 bytes"),
        (lambda: as_exchange(5), "exchange= is the name of a topic exchange"),  # type: ignore[arg-type]
    ],
)
def test_an_exchange_that_can_t_be_is_explained(make: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert said in str(raised.value)


def test_a_name_is_that_of_a_durable_topic_exchange() -> None:
    assert as_exchange("logs") == Exchange("logs", "topic", durable=True)
    assert as_exchange(None) is DEFAULT
    assert as_exchange(FANOUT) is FANOUT


def test_no_name_is_that_of_the_default_exchange() -> None:
    assert as_exchange("") == Exchange("", "direct")
    assert str(as_exchange("")) == "default exchange"


def test_a_recorded_binding_is_what_a_subscription_has() -> None:
    plain = bindings(Exchange("logs"), ["a.*"], None)
    headers = bindings(Exchange("docs", "headers"), [], {"format": "pdf", "pages": 3, "draft": True})
    for each in (*plain, *headers, *bindings(Exchange("all", "fanout"), [], None)):
        assert recorded(each.exchange, each.key, dict(each.arguments)) == each


@pytest.mark.parametrize(
    ("exchange", "key", "arguments"),
    [
        ("", "x", {}),
        ("e" * 256, "x", {}),
        ("e\ud800", "x", {}),
        (None, "x", {}),
        ("e", "x" * 256, {}),
        ("e", "\ud800", {}),
        ("e", 7, {}),
        ("e", "x", None),
        ("e", "x", []),
        ("e", "", {"a": 1.5}),
        ("e", "", {"a": {"b": 1}}),
        ("e", "", {"a": 2**63}),
        ("e", "", {"a": "\ud800"}),
        ("e", "", {"a" * 256: 1}),
        ("e", "", {"x-match": "all"}),
        ("e", "", {"x-match": 7, "a": 1}),
        ("e", "", {"x-match": [], "a": 1}),
    ],
)
def test_what_a_record_can_t_have_is_no_binding(exchange: object, key: object, arguments: object) -> None:
    with pytest.raises(ConfigurationError):
        recorded(exchange, key, arguments)
