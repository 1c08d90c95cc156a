"""The programs of RabbitMQ's tutorials about logs, on raw pika with text bodies, and ours: each hears the other."""

from __future__ import annotations

import sys
from pathlib import Path

import pika
import pytest

from tests.interop.programs import delete_queues, run, running, serving
from tests.waiting import until

HERE = Path(__file__).parent

#: By emitter: its receiver, what that asks for, what the emitter is given, and what the receiver prints of it.
LOGS = {
    "emit_log": ("receive_logs", [], ["error:", "it", "burns"], "error: it burns"),
    "emit_log_direct": ("receive_logs_direct", ["warning", "error"], ["error", "it", "burns"], "error:it burns"),
    "emit_log_topic": (
        "receive_logs_topic", ["kern.*", "*.critical"], ["cron.critical", "it", "burns"], "cron.critical:it burns",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_exchange_of_another_kind(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for exchange in ("logs", "direct_logs", "topic_logs"):
            connection.channel().exchange_delete(exchange)
    delete_queues(url, "hello", "hello.dead", "amqp_rpc.bindings.hello")


def theirs(program: str) -> list[str]:
    return [sys.executable, str(HERE / f"{program}.py")]


def ours(program: str) -> list[str]:
    return [sys.executable, "-m", f"examples.{program}"]


@pytest.mark.parametrize("emitter", LOGS)
def test_what_the_tutorials_emitter_sends_our_receiver_prints(url: str, tmp_path: Path, emitter: str) -> None:
    receiver, asked, given, line = LOGS[emitter]
    prints = tmp_path / "printed"
    with (
        serving(f"examples.{receiver}", url=url, prints=prints)
        if not asked
        else running(*ours(receiver), *asked, url=url, prints=prints, ready="Waiting")
    ):
        run(*theirs(emitter), *given, url=url)
        until(lambda: f" [x] {line}\n" in prints.read_text())


@pytest.mark.parametrize("emitter", LOGS)
def test_what_our_emitter_sends_the_tutorials_receiver_prints(url: str, tmp_path: Path, emitter: str) -> None:
    receiver, asked, given, line = LOGS[emitter]
    prints = tmp_path / "printed"
    with running(*theirs(receiver), *asked, url=url, prints=prints, ready="Waiting"):
        assert run(*ours(emitter), *given, url=url) == f" [x] Sent {line}\n"
        topic, _, text = line.rpartition(":")
        printed = f" [x] {topic}:{text.encode()}\n" if asked else f" [x] {line.encode()}\n"
        until(lambda: printed in prints.read_text())


def test_the_tutorials_hello_world_comes_to_our_receiver(url: str, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    run(*theirs("send"), url=url)
    with serving("examples.receive", url=url, prints=prints):
        run(*theirs("send"), url=url)
        until(lambda: prints.read_text() == " [x] Received Hello World!\n" * 2)


def test_our_hello_world_comes_to_the_tutorials_receiver(url: str, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    with running(*theirs("receive"), url=url, prints=prints, ready="Waiting"):
        assert run(*ours("send"), url=url) == " [x] Sent 'Hello World!'\n"
        until(lambda: " [x] Received b'Hello World!'\n" in prints.read_text())


def test_our_hello_world_says_so_where_there_is_nobody_at_all(url: str) -> None:
    said = run(*ours("send"), url=url, ends_with=1)
    assert said == "there is no queue 'hello' for this event: nobody gets it\n"


def test_the_command_line_hears_the_tutorials_emitter_and_is_heard(url: str, tmp_path: Path) -> None:
    theirs_prints, prints = tmp_path / "theirs", tmp_path / "printed"
    exchange = ["--exchange", "topic_logs", "--transient"]
    listen = [sys.executable, "-m", "amqp_rpc", "listen", "kern.*", *exchange]
    with running(*theirs("receive_logs_topic"), "#", url=url, prints=theirs_prints, ready="Waiting"):
        run(sys.executable, "-m", "amqp_rpc", "publish", "kern.info", "all", "is", "well", *exchange, url=url)
        until(lambda: " [x] kern.info:b'all is well'\n" in theirs_prints.read_text())
        with running(*listen, url=url, prints=prints, ready=""):

            def heard() -> bool:
                run(*theirs("emit_log_topic"), "kern.critical", "it", "burns", url=url)
                return "kern.critical it burns\n" in prints.read_text()

            until(heard, timeout=40)
