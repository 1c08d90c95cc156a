"""The server of RabbitMQ's RPC tutorial answers our calls, and shares its queue with our servers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqp_rpc import Client, Service
from tests.interop.programs import delete_queues, run, running, serving

HERE = Path(__file__).parent
AMQP_RPC = [sys.executable, "-m", "amqp_rpc"]

#: The arguments of rpc_queue in today's tutorial, and in the one before.
ARGUMENTS = {"today": {"x-queue-type": "quorum"}, "before": None}


@pytest.fixture(params=ARGUMENTS)
def tutorial(
    request: pytest.FixtureRequest, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The URL of a broker on which the tutorial's server runs."""
    delete_queues(url, "rpc_queue")
    monkeypatch.setenv("ARGUMENTS", json.dumps(ARGUMENTS[request.param]))
    server = [sys.executable, HERE / "rpc_server.py"]
    with running(*server, url=url, prints=tmp_path / "printed", ready="Awaiting RPC requests") as process:
        yield url
        assert process.poll() is None, "our calls have ended it"
    delete_queues(url, "rpc_queue")


def test_our_call_in_text_is_answered(tutorial: str) -> None:
    with Client(tutorial) as client:
        assert client.call("fib", 20, content_type="text/plain") == "6765"
        assert list(client.map("fib", range(4), content_type="text/plain")) == ["0", "1", "1", "2"]


def test_by_the_function_object_the_answer_is_a_number(tutorial: str) -> None:
    @Service().rpc
    def fib(n: int) -> int:
        raise NotImplementedError

    with Client(tutorial) as client:
        assert client.with_options(content_type="text/plain").call(fib, 20) == 6765


def test_the_command_line_calls_it(tutorial: str) -> None:
    assert run(*AMQP_RPC, "call", "fib", "20", "--content-type", "text/plain", url=tutorial) == '"6765"\n'


def test_our_server_shares_its_queue_and_its_clients(tutorial: str) -> None:
    with serving("tests.interop.passive_fib", url=tutorial):
        # The broker gives them in turns.
        for _ in range(4):
            assert " [.] Got 6765\n" in run(sys.executable, HERE / "rpc_client.py", "20", url=tutorial)
