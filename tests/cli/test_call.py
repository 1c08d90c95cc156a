"""`amqp-rpc call` as a user meets it: JSON out, and one line with a named exit code for what goes wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.options import arguments_of
from tests.programs import run, serving


@pytest.fixture(scope="module")
def served(broker: str) -> Iterator[str]:
    with serving("services.fib", "tests.served", url=broker):
        yield broker


def test_a_result_is_printed_as_json(served: str) -> None:
    done = run("call", "fib", "30", url=served)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.OK, "832040\n", "")
    assert run("call", "fib", "300", url=served).stdout == (
        "222232244629420445529739893461909967206666939096499764990979600\n"
    )
    assert run("call", "fib", "n=10", url=served).stdout == "55\n"
    assert len(json.loads(run("call", "tserved.hold", "0", url=served).stdout)) == 3


FAILURES = {
    "the function raises": (["fib", "--", "-1"], Exit.REMOTE_ERROR, "ValueError: n must be from 0 to 10000, not -1"),
    "a negative number needs no --": (["fib", "-1"], Exit.REMOTE_ERROR, "not -1"),
    "a result that can't be sent": (["tserved.unsendable"], Exit.REMOTE_ERROR, "unsendable() ran, and its result"),
    "another type": (["fib", "x"], Exit.BAD_ARGUMENTS, "parameter 'n': expected int, got str; it was 'x'"),
    "too many": (["fib", "1", "2"], Exit.BAD_ARGUMENTS, "takes 1 argument"),
    "an unknown function": (["nope"], Exit.NO_FUNCTION, "no function 'nope' here; there are: fib"),
    "no such service": (["nobody.fib"], Exit.NO_SERVER, "there is no queue 'rpc_queue.nobody'"),
    "a timeout": (["tserved.hold", "5", "--timeout", "0.2"], Exit.TIMEOUT, "it may have run"),
    "a header of ours": (
        ["fib", "1", "--header", "attempt=3"],
        Exit.USAGE,
        "a call can't have a header 'attempt'",
    ),
    "a header twice": (["fib", "1", "--header", "a=1", "--header", "a=2"], Exit.USAGE, "header a is given twice"),
    "another queue": (["fib", "1", "--queue", "nosuch"], Exit.NO_SERVER, "there is no queue 'nosuch'"),
    "no timeout": (["fib", "1", "--timeout", "0"], Exit.USAGE, "more than 0"),
    "a wrong URL": (["fib", "1", "--url", "http://x"], Exit.USAGE, "is not an AMQP URL"),
    "an unknown host": (["fib", "1", "--url", "amqp://x.invalid"], Exit.NO_BROKER, "name is not known"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line_with_an_exit_code_of_its_own(served: str, failure: str) -> None:
    arguments, code, message = FAILURES[failure]
    done = run("call", *arguments, url=served)
    assert message in done.stderr
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)


def test_no_broker_and_no_access_have_codes_of_their_own(served: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = run("call", "fib", "1", url=f"amqp://127.0.0.1:{free.getsockname()[1]}")
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.NO_BROKER, 1)
    done = run("call", "fib", "1", url=served.replace("guest:guest", "guest:secret"))
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.ACCESS_REFUSED, 1)
    assert "secret" not in done.stderr
    done = run("call", "fib", "1", url=f"{served}nowhere")
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.ACCESS_REFUSED, 1)


def test_what_a_function_says_can_t_control_the_terminal(served: str) -> None:
    evil = "a\x1b]0;owned\x07\x1b[2J\x9b31m\nnext"
    for arguments in (
        ["tserved.refuse", evil],
        ["tserved.refuse", evil, "--traceback"],
        ["tserved.echo", evil],
        [f"tserved.{evil}"],
        [f"{evil}.f"],
    ):
        done = run("call", *arguments, url=served)
        assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines()), arguments
    assert json.loads(run("call", "tserved.echo", evil, url=served).stdout) == evil
    assert run("call", "tserved.refuse", evil, url=served).stderr.startswith("amqp-rpc: ValueError: a\\x1b]0;")


def test_the_servers_traceback_is_shown_when_asked_for(served: str) -> None:
    done = run("call", "fib", "-1", "--traceback", url=served)
    assert "services/fib.py" in done.stderr


def test_words_are_json_if_they_parse_and_text_otherwise() -> None:
    words = ("1", "x", '"1"', "[1,2]", "null", "a-b=c", 'n={"a": 1}', "m=", "k=x=y")
    assert arguments_of(words) == ([1, "x", "1", [1, 2], None, "a-b=c"], {"n": {"a": 1}, "m": "", "k": "x=y"})
