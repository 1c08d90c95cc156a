"""Node.js with amqplib and JSON gets its answers from our server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.interop.programs import amqplib, run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in a folder of its own, with what it imports beside it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no Node.js here: apt-get install nodejs npm")
    folder = amqplib(tmp_path_factory.mktemp("node"))
    shutil.copy(HERE / "rpc_client.mjs", folder)
    return folder / "rpc_client.mjs"


def test_a_number_is_answered(client, served):
    assert run("node", client, "fib", "[[30],{}]", url=served) == "832040\n"


def test_an_argument_may_travel_by_name(client, served):
    assert run("node", client, "naive_fib", '[[],{"n":20}]', url=served) == "6765\n"


def test_all_digits_of_a_long_number_are_in_the_json_text(client, served):
    printed = run("node", client, "fib", "[[300],{}]", url=served)

    assert printed == "222232244629420445529739893461909967206666939096499764990979600\n"


def test_what_the_function_raises_arrives_as_an_error(client, served):
    printed = run("node", client, "fib", "[[-1],{}]", url=served, ends_with=1)

    assert printed == "ValueError: n must be from 0 to 10000, not -1\n"


def test_wrong_arguments_arrive_as_an_error_that_names_the_parameter(client, served):
    printed = run("node", client, "fib", '[["30"],{}]', url=served, ends_with=1)

    assert printed == "InvalidArguments: fib(): parameter 'n': expected int, got str; it was '30'\n"
