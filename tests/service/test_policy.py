"""A failed task: how often it is retried, and when."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import LONGEST_DELAY
from amqp_rpc.service.policy import CallQueue, Policy, SubscriptionOptions, TaskOptions
from amqp_rpc.service.service import Service


@pytest.mark.parametrize(("attempt", "middle"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (10_000, 10.0)])
def test_delays_double_up_to_the_most_give_or_take_a_fifth(attempt, middle):
    policy = Policy("q", backoff=(1.0, 10.0))
    assert all(0.8 * middle <= policy.delay(attempt) <= 1.2 * middle for _ in range(50))


def test_delays_are_not_the_same_for_what_failed_together():
    assert len({Policy("q").delay(1) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1}, {"retries": 1.5}, {"retries": True}, {"backoff": (0, 1)}, {"backoff": (2.0, 1.0)},
        {"backoff": (1.0, 2 * LONGEST_DELAY)}, {"backoff": 3}, {"queue_type": "mirrored"}, {"retry_for": (3,)},
        {"retry_for": ValueError},
    ],
)  # fmt: skip
def test_a_policy_that_can_t_be_is_refused(options):
    with pytest.raises(ConfigurationError):
        Policy("q", **options)


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "3"])
def test_a_bound_on_calls_that_can_t_be_is_refused(bound: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_length"):
        Service(max_length=bound)


def test_a_bound_on_calls_is_for_a_queue_that_the_server_declares() -> None:
    with pytest.raises(ConfigurationError, match="declare='passive'"):
        Service(declare="passive", max_length=3)
    assert CallQueue("q", max_length=3).arguments == {
        "x-queue-type": "classic",
        "x-max-length": 3,
        "x-overflow": "reject-publish",
    }
    assert CallQueue("q").arguments == {"x-queue-type": "classic"}


def test_numbers_may_be_timedeltas_and_are_kept_as_seconds():
    policy = Policy("q", backoff=(timedelta(seconds=2), timedelta(minutes=1)), time_limit=timedelta(hours=1))
    assert (policy.backoff, policy.time_limit) == ((2.0, 60.0), 3600.0)


def test_no_delay_at_all_retries_at_once():
    assert Policy("q", backoff=(0, 0)).delay(3) == 0.0


def test_one_number_is_the_first_delay():
    assert 2.4 <= Policy("q", backoff=(3.0, 3.0)).delay(4) <= 3.6


@pytest.mark.parametrize(
    "name", ["", "rpc_queue", "rpc_queue.x", "amq.x", "amqp_rpc.x", "x.dead", "x" * 200, "\ud800", None]
)
def test_a_queue_s_name_that_means_something_else_or_can_t_be_sent_is_refused(name):
    with pytest.raises(ConfigurationError, match="can't name a task queue"):
        Policy(name)


def test_a_queue_s_name_may_have_199_bytes():
    assert Policy("x" * 199).queue == "x" * 199


def test_an_option_that_does_not_exist_is_refused_as_python_does():
    service = Service()
    with pytest.raises(TypeError, match=r"Service.task\(\) got an unexpected keyword argument 'retrys'"):
        service.task(retrys=3)
    with pytest.raises(TypeError, match=r"Service.subscribe\(\) got an unexpected keyword argument 'max_priority'"):
        service.subscribe("a", max_priority=3)


@pytest.mark.parametrize("method", [Service.task, Service.subscribe])
def test_every_option_is_explained(method):
    known = TaskOptions if method is Service.task else SubscriptionOptions
    assert all(f"``{name}``:" in method.__doc__ for name in known.__annotations__)
    # All but one are a policy's.
    assert known.__annotations__.keys() - {"authorize"} < {field.name for field in dataclasses.fields(Policy)}
