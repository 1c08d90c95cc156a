"""The options of connections as flags and variables: each command has them, and they count more than the URL's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from amqp_rpc.cli import main
from amqp_rpc.cli.exits import Exit
from amqp_rpc.message.settings import OPTIONS_IN_A_URL

COMMANDS = {
    "call": ["call", "fib", "1"],
    "enqueue": ["enqueue", "fib", "1"],
    "publish": ["publish", "a.b"],
    "listen": ["listen"],
    "queues": ["queues", "q"],
    "dlq": ["dlq", "list", "q"],
    "serve": ["serve", "services.fib"],
}
TLS = "amqps://localhost:1"


def options_of(words: list[str]) -> set[str | None]:
    command: Any = main
    for word in words:
        if isinstance(command, click.Group):
            command = command.commands[word]
    return {each.name for each in command.params}


def run(*words: str, **environment: str) -> tuple[int, str]:
    done = CliRunner(env=environment).invoke(main, words)
    return done.exit_code, done.output


@pytest.mark.parametrize("command", COMMANDS)
class TestEachCommand:
    def test_has_all_of_them(self, command: str) -> None:
        assert {"url", *OPTIONS_IN_A_URL} <= options_of(COMMANDS[command])

    def test_names_a_wrong_one_by_its_flag_in_one_line(self, command: str) -> None:
        code, said = run(*COMMANDS[command], "--url", TLS, "--cacertfile", "/nowhere")
        assert said == "amqp-rpc: --cacertfile '/nowhere' can't be read: no such file or directory\n"
        assert code == Exit.USAGE

    def test_reads_it_from_a_variable(self, command: str) -> None:
        code, said = run(*COMMANDS[command], AMQP_URL=TLS, AMQP_RPC_CERTFILE="/nowhere")
        assert said == "amqp-rpc: --certfile '/nowhere' can't be read: no such file or directory\n"
        assert code == Exit.USAGE


def test_a_flag_counts_more_than_the_url_and_the_url_more_than_a_variable(tmp_path: Path) -> None:
    url = f"{TLS}?cacertfile=/url"
    assert "'/flag' can't" in run("call", "f", "--url", url, "--cacertfile", "/flag", AMQP_RPC_CACERTFILE="/var")[1]
    assert "'/url' can't" in run("call", "f", "--url", url, AMQP_RPC_CACERTFILE="/var")[1]


def test_a_connection_to_whoever_answers_is_announced() -> None:
    for words in (["--verify", "verify_none"], []):
        variables = {} if words else {"AMQP_RPC_VERIFY": "verify_none"}
        code, said = run("call", "fib", "1", "--url", TLS, *words, **variables)
        first = said.splitlines()[0]
        assert first.startswith(
            "amqp-rpc: anyone may be the broker at amqps://guest:***@localhost:1/: its certificate is"
        )
        assert code == Exit.NO_BROKER


def test_a_word_that_is_no_value_is_an_error_of_usage() -> None:
    code, said = run("call", "fib", "--verify", "no")
    assert code == Exit.USAGE
    assert "verify_peer" in said
