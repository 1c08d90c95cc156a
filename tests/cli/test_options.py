"""The words of a command line, and the texts that answer them: flags and not Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from amqp_rpc.cli import main
from amqp_rpc.cli.call import call
from amqp_rpc.cli.enqueue import enqueue
from amqp_rpc.cli.exits import Exit, in_flags
from amqp_rpc.cli.options import arguments_in
from amqp_rpc.cli.publish import publish
from amqp_rpc.errors import InvalidArguments
from tests.programs import ROOT, run, serving


@pytest.fixture(scope="module")
def served(broker: str) -> Iterator[str]:
    with serving("services.fib", "tests.served", url=broker):
        yield broker


BEHIND = {
    "call": ["tserved.echo", "--", "--x"],
    "call, all behind": ["--", "tserved.echo", "--x"],
    "call, beside an option": ["tserved.echo", "--timeout", "9", "--", "--x"],
    "enqueue": ["repeat", "--queue", "tserved_sums", "--wait", "--", "--x"],
}


@pytest.mark.parametrize("command", BEHIND)
def test_behind_two_dashes_nothing_is_an_option(served: str, command: str) -> None:
    done = run(command.partition(",")[0], *BEHIND[command], url=served)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (Exit.OK, '"--x"'), done.stderr


def test_behind_two_dashes_a_payload_is_no_option(served: str) -> None:
    assert run("publish", "a.b", "--", "--x", "--mandatory", url=served).returncode == Exit.OK


@pytest.mark.parametrize("arguments", [["echo", "--x"], ["echo", "--x", "--", "--y"], ["--x", "echo"]])
@pytest.mark.parametrize("command", ["call", "enqueue", "publish"])
def test_before_them_an_unknown_option_is_an_error(command: str, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [command, *arguments])
    assert done.exit_code == Exit.USAGE
    assert "No such option '--x'" in done.output


@pytest.mark.parametrize(
    "words", [["call", "fib"], ["call"], ["enqueue", "fib"], ["publish", "a"], ["dlq", "show", "q"]]
)
def test_an_argument_that_is_not_utf_8_is_said_to_be_so(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "amqp_rpc", *words, b"\xff"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "AMQP_URL": "amqp://nowhere.invalid"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr == "amqp-rpc: the argument b'\\xff' is not text in UTF-8\n"


def test_a_header_that_is_given_twice_is_an_error() -> None:
    done = CliRunner().invoke(main, ["publish", "a.b", "--header", "k=v", "--header", "k=w"])
    assert (done.exit_code, done.output) == (Exit.USAGE, "amqp-rpc: header k is given twice\n")


TEXTS = {
    "delay= and eta= say the same in two ways; give one of them": (
        "--delay and --eta say the same in two ways; give one of them"
    ),
    "none starts it any more (expires=): it would never run. expires= counts from now": (
        "none starts it any more (--expires): it would never run. --expires counts from now"
    ),
    "give it more time with timeout=": "give it more time with --timeout",
    "priority must be a whole number, not 'x'": "--priority must be a whole number, not 'x'",
    "unique_for must be a number above 0": "--unique-for must be a number above 0",
    "there is a queue 'x', of tasks": "there is a queue 'x', of tasks",
    "queue 'queue=' is full": "queue 'queue=' is full",
    "the limit is 5 (max_message_size)": "the limit is 5",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_the_library_has_the_flags_of_the_command(text: str) -> None:
    with click.Context(enqueue):
        assert in_flags(text) == TEXTS[text]


def test_a_text_about_exchanges_has_flags_too() -> None:
    with click.Context(publish):
        assert in_flags("Say what it is, with exchange=Exchange(name, kind, durable=…), take another name") == (
            "Say what it is, with --exchange, --type and --transient, take another name"
        )
        assert in_flags("headers= is for exchanges of kind headers") == "--header is for exchanges of kind headers"
        assert in_flags("needs headers={'format': 'pdf'} or the like") == "needs --header NAME=VALUE or the like"
    # A text about the code of a served module stays.
    assert in_flags("give both the same queue_type=") == "give both the same queue_type="


def test_a_text_about_a_call_that_may_have_run_has_the_flag_and_the_code_of_a_service_stays() -> None:
    with click.Context(call):
        assert in_flags("if it may run twice, use idempotent=True") == "if it may run twice, use --idempotent"
        declared = "If it may run twice, declare it idempotent=True"
        assert in_flags(declared) == declared


WRONG = {
    "options in the URL": (
        ["call", "f", "--url", "amqp://localhost?heartbeat=5"],
        "its options (heartbeat) are not read; --heartbeat of serve and listen sets that",
    ),
    "other options in the URL": (
        ["listen", "--url", "amqp://localhost?timeout=5"],
        "its options (timeout) are not read\n",
    ),
    "no timeout": (["call", "f", "--timeout", "0"], "timeout"),
    "nobody": (["call", "nobody.f"], "--wait-for-server"),
    "a delay and a time": (["enqueue", "f", "--delay", "1", "--eta", "2999-01-01"], "--delay and --eta say the same"),
    "expired before": (["enqueue", "f", "--delay", "9", "--expires", "1"], "a shorter --delay or earlier --eta"),
    "headers of a topic": (["listen", "a", "--header", "a=b"], "--header is for exchanges of kind headers"),
    "no headers": (["listen", "--exchange", "x", "--type", "headers"], "needs --header NAME=VALUE"),
    "too large": (["publish", "a.b", "x" * 100_000, *["y" * 100_000] * 170], "bytes, and the limit is 16777216\n"),
    "an empty word": (["publish", "a..b", "1"], "the topic 'a..b' has an empty word"),
    "a pattern": (["publish", "a.*", "1"], "the topic 'a.*' has the wildcard '*'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_flags(broker: str, wrong: str) -> None:
    arguments, message = WRONG[wrong]
    done = CliRunner(env={"AMQP_URL": broker}).invoke(main, arguments)
    assert message in done.output
    assert done.output.count("\n") == 1
    assert "Client(" not in done.output
    assert "?" in arguments[-1] or "=" not in done.output.replace("NAME=VALUE", "")


def from_stdin(*arguments: str, lines: str | bytes, url: str) -> tuple[int, list[Any], str]:
    """Run a command with lines on standard input; return its code, its lines of JSON, and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "amqp_rpc", *arguments, "--stdin"], cwd=ROOT, timeout=60, capture_output=True,
        env={**os.environ, "AMQP_URL": url}, input=lines if isinstance(lines, bytes) else lines.encode(), check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_each_line_of_standard_input_is_a_call_and_has_its_result(served: str) -> None:
    lines = '[10]\n{"n": 20}\n\n30\n[[], {"n": 1}]\n'
    code, results, said = from_stdin("call", "fib", lines=lines, url=served)
    assert results == [
        {"line": 1, "result": 55},
        {"line": 2, "result": 6765},
        {"line": 4, "result": 832040},
        {"line": 5, "result": 1},
    ]
    assert (code, said) == (Exit.OK, "")


def test_a_line_that_fails_is_named_by_its_number_and_the_others_go_on(served: str) -> None:
    lines = b'[10]\n[-1]\n{"n": \n"\xff"\n{"timeout": 5}\n[20]\n'
    code, results, said = from_stdin("call", "fib", lines=lines, url=served)
    assert [each["line"] for each in results] == [1, 2, 3, 4, 5, 6]
    assert [each.get("result") for each in results] == [55, None, None, None, None, 6765]
    errors = [
        "line 2: ValueError: n must be from 0 to 10000, not -1",
        "line 3: it is not JSON: ",
        "line 4: it is not text in UTF-8: ",
        "line 5: timeout is an option of the call, not an argument: --timeout",
        "4 lines of 6 failed; the first is line 2",
    ]
    for line, error in zip(said.splitlines(), errors, strict=True):
        assert line.startswith(f"amqp-rpc: {error}")
    assert results[1]["error"] == errors[0].partition(": ")[2]
    assert code == Exit.REMOTE_ERROR


def test_each_line_is_a_task_and_has_its_id(served: str) -> None:
    lines = "".join(f"[{n}]\n" for n in range(250))
    code, results, said = from_stdin("enqueue", "total", "--queue", "tserved_sums", "--wait", lines=lines, url=served)
    assert (code, said) == (Exit.OK, "")
    assert [(each["line"], each["result"]) for each in results] == [(n + 1, n) for n in range(250)]
    assert len({each["id"] for each in results}) == 250
    # Both kinds of arguments, and a key that only one may have.
    lines = '[["a"], {"b": 1}]\n[["a"], {"b": 1}]\n'
    given = ("enqueue", "f", "--queue", "tcli_lines", "--unique-for", "60")
    code, results, said = from_stdin(*given, lines=lines, url=served)
    assert code == Exit.REFUSED
    assert (list(results[0]), list(results[1])) == (["line", "id"], ["line", "error"])
    assert "amqp-rpc: line 2: f() was not enqueued: one with the same key was" in said


def test_each_line_is_the_payload_of_an_event(served: str) -> None:
    lines = '{"order": 7}\n"text"\nnope\n'
    code, results, said = from_stdin("publish", "a.b", lines=lines, url=served)
    assert ["id" in each for each in results] == [True, True, False]
    assert code == Exit.BAD_ARGUMENTS
    assert said.splitlines()[-1] == "amqp-rpc: 1 line of 3 failed; the first is line 3"


def test_without_a_broker_the_first_line_ends_it() -> None:
    lines = "[1]\n" * 1000
    code, results, said = from_stdin("enqueue", "f", lines=lines, url="amqp://nowhere.invalid")
    assert (code, results, len(said.splitlines())) == (Exit.NO_BROKER, [], 1)
    assert said.startswith("amqp-rpc: line 1: ")


def test_a_line_is_worked_on_as_soon_as_it_is_there(served: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "amqp_rpc", "call", "fib", "--stdin"], cwd=ROOT, text=True,
        env={**os.environ, "AMQP_URL": served}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        for number in (1, 2):
            program.stdin.write("[10]\n")
            program.stdin.flush()
            assert json.loads(program.stdout.readline()) == {"line": number, "result": 55}
        program.stdin.close()
        assert program.wait(30) == Exit.OK


def test_arguments_come_from_one_place() -> None:
    done = CliRunner().invoke(main, ["call", "fib", "1", "--stdin"])
    assert (done.exit_code, done.output) == (
        Exit.USAGE,
        "amqp-rpc: --stdin reads the arguments from standard input: leave out '1'\n",
    )


def test_a_line_of_json_is_arguments_as_on_the_wire() -> None:
    assert arguments_in([1, 2]) == ([1, 2], {})
    assert arguments_in({"n": 1}) == ([], {"n": 1})
    assert arguments_in([[1], {"n": 1}]) == ([1], {"n": 1})
    assert arguments_in([[1], 2]) == ([[1], 2], {})
    assert arguments_in("x") == (["x"], {})
    with pytest.raises(InvalidArguments, match="--wait-for-server"):
        arguments_in({"wait_for_server": True})


#: A URL where nobody listens: what is wrong with an option is found before.
NOBODY = "amqp://127.0.0.1:1"

IMPOSSIBLE = [
    ["call", "f", "--timeout", "0"],
    ["call", "f", "--timeout", "nan"],
    ["call", "f", "--timeout", "inf"],
    ["call", "f", "--timeout", "soon"],
    ["call", "f", "--queue", "q" * 256],
    ["call", "f", "--header", "attempt=1"],
    ["call", "f", "--content-type", "text/html"],
    ["call", "f", "--url", "http://host"],
    ["call", "f", "--url", "amqp://host:0"],
    ["call", "f", "--cacertfile", "/nowhere", "--url", "amqps://host"],
    ["enqueue", "f", "--timeout", "-1"],
    ["enqueue", "f", "--delay", "-1"],
    ["enqueue", "f", "--delay", "nan"],
    ["enqueue", "f", "--expires", "0"],
    ["enqueue", "f", "--priority", "256"],
    ["enqueue", "f", "--unique-for", "0"],
    ["enqueue", "f", "--eta", "yesterday"],
    ["enqueue", "f", "--delay", "1", "--eta", "2999-01-01"],
    ["publish", "a", "--timeout", "0"],
    ["publish", "a", "--expires", "0"],
    ["publish", "a..b"],
    ["publish", "a", "--type", "fan"],
    ["listen", "--heartbeat", "0"],
    ["listen", "a..b"],
    ["queues", "--timeout", "0"],
    ["dlq", "list", "q", "--timeout", "0"],
    ["dlq", "list", "q", "--limit", "-1"],
    ["dlq", "list", "q", "--before", "soon"],
    ["dlq", "replay", "q", "--all", "--to", ""],
    ["broker", "start", "--timeout", "0"],
    ["broker", "start", "--timeout", "nan"],
]


@pytest.mark.parametrize("words", IMPOSSIBLE, ids=" ".join)
def test_a_value_that_an_option_can_t_have_is_usage_wherever_it_is_checked(words: list[str]) -> None:
    done = CliRunner(env={"AMQP_URL": NOBODY}).invoke(main, words)
    assert (done.exit_code, done.stdout) == (Exit.USAGE, ""), done.output
    assert done.stderr


def test_one_in_a_variable_too() -> None:
    for variable, value in (("AMQP_RPC_TIMEOUT", "0"), ("AMQP_RPC_TIMEOUT", "soon"), ("AMQP_RPC_URL", "http://host")):
        assert CliRunner(env={"AMQP_URL": NOBODY, variable: value}).invoke(main, ["call", "f"]).exit_code == Exit.USAGE


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "0"],
        ["--prefetch", "0"],
        ["--processes", "0"],
        ["--heartbeat", "0"],
        ["--max-message-size", "0"],
        ["--drain-timeout", "nan"],
        ["--drain-timeout", "inf"],
        ["--clock-skew", "-1"],
        ["--wait-for-broker", "nan"],
        ["--results", "nonsense"],
        ["--results", "sqlite:///r.db", "--result-expires", "0"],
        ["--queues", "nope"],
        ["--log-config", "/nowhere"],
        ["--url", "http://host"],
        ["--threads", "0", "--processes", "2"],
    ],
    ids=" ".join,
)
def test_one_of_a_server_too(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "served_here.py").write_text("from amqp_rpc import Service\nservice = Service()\nservice.rpc(len)\n")
    done = run("serve", "served_here", *words, url=NOBODY, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (Exit.USAGE, ""), done.stderr


def test_what_is_wrong_with_the_code_is_not(tmp_path: Path) -> None:
    twice = "from amqp_rpc import Service\nservice = Service()\nservice.rpc(len)\nservice.rpc(len)\n"
    (tmp_path / "twice.py").write_text(twice)
    for command in ("serve", "queues", "schedules"):
        done = run(command, "twice", url=NOBODY, cwd=tmp_path)
        # Asking for a queue of that name comes before the module.
        assert done.returncode == (Exit.NO_BROKER if command == "queues" else Exit.CONFIGURATION), done.stderr
