"""The tree of errors is the one that its docstring draws, and each says whether the function may have run."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import traceback

import pytest

import amqp_rpc
from amqp_rpc import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.NotConnected, ConnectionError),
        (errors.ConnectionLost, ConnectionError),
        (errors.InvalidArguments, TypeError),
        (errors.CallTimeout, TimeoutError),
        (errors.BrokerTimeout, TimeoutError),
        (errors.BrokerTimeout, ConnectionError),
        (errors.Undecodable, ValueError),
    ],
)
def test_a_stranger_catches_it_by_the_builtin(error, builtin):
    assert issubclass(error, builtin)


@pytest.mark.parametrize(
    ("error", "may_have_run"),
    [
        (errors.ConfigurationError, False),
        (errors.NotConnected, False),
        (errors.ConnectionLost, True),
        (errors.BrokerTimeout, False),
        (errors.PublishRefused, False),
        (errors.AlreadyQueued, False),
        (errors.Unroutable, False),
        (errors.NoServer, False),
        (errors.FunctionNotFound, False),
        (errors.InvalidArguments, False),
        (errors.NotAuthorized, False),
        (errors.Expired, False),
        (errors.Overloaded, False),
        (errors.NotSent, False),
        (errors.CallTimeout, True),
        (errors.MaybeExecuted, True),
        (errors.RemoteError, True),
        (errors.Unencodable, False),
    ],
)
def test_each_says_whether_the_function_may_have_run(error, may_have_run):
    assert error("why").may_have_run is may_have_run


def leaves():
    return [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.AmqpRpcError)]


@pytest.mark.parametrize("error", leaves())
def test_the_docstring_draws_every_error_with_its_family(error):
    assert f"─ {error.__name__}" in errors.__doc__ or error is errors.AmqpRpcError
    assert error.__doc__


@pytest.mark.parametrize("error", leaves())
def test_each_shows_the_text_that_it_was_given(error):
    if error is not errors.RemoteError:  # its text is the handler's
        assert str(error("why")) == "why"


@pytest.mark.parametrize("after", [0, 0.5, 30, float("inf"), None])
def test_a_task_is_tried_again_after_any_number_of_seconds(after):
    assert errors.Retry("busy", after=after).after == after


@pytest.mark.parametrize("after", ["30", -1, -0.001, float("nan"), True, [1]])
def test_a_time_of_another_try_that_makes_no_sense_is_refused_in_words(after):
    with pytest.raises(errors.ConfigurationError, match=r"Retry\(after=\) is a number of seconds from 0, not "):
        errors.Retry("busy", after=after)


def classes():
    for module in pkgutil.walk_packages(amqp_rpc.__path__, "amqp_rpc."):
        if not module.name.endswith("__main__"):
            for each in vars(importlib.import_module(module.name)).values():
                if isinstance(each, type) and each.__module__ == module.name and "__repr__" in vars(each):
                    yield each


@pytest.mark.parametrize("kind", [each for each in classes() if not dataclasses.is_dataclass(each)])
def test_an_object_whose_constructor_has_raised_can_be_shown(kind):
    assert isinstance(repr(kind.__new__(kind)), str)


@pytest.mark.parametrize(
    "make",
    [
        lambda: amqp_rpc.Client("http://user:secret@host"),
        lambda: amqp_rpc.Client("amqp://host", heartbeat=-1),
        lambda: amqp_rpc.Client("amqp://host", results="redis://user:secret"),
        lambda: amqp_rpc.AsyncClient("amqp://user:secret"),
        lambda: amqp_rpc.Server(amqp_rpc.Service("tshown"), url="amqp://user:secret"),
        lambda: amqp_rpc.Server(amqp_rpc.Service("tshown"), threads=0),
        lambda: amqp_rpc.Service("a.b"),
        lambda: amqp_rpc.Exchange("x", "fan"),
        lambda: amqp_rpc.Retry(after="soon"),
        lambda: amqp_rpc.Client("amqp://host").queue(""),
        lambda: amqp_rpc.Client("amqp://host").dead_letters(""),
    ],
)
def test_a_constructor_that_raises_can_be_shown_with_its_variables(make):
    with pytest.raises(ValueError) as caught:
        make()
    # As error trackers do. Older Pythons let what a repr raises through.
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if "amqp_rpc" in frame.filename]
    assert ours
    assert not [name for frame in ours for name, text in (frame.locals or {}).items() if "repr() failed" in text]
