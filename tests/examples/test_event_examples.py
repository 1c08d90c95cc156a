"""Each example about events is run as its docstring says: who gets which line, on the screen or in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from amqp_rpc import Client
from tests.interop.programs import delete_queues, run, running, serving
from tests.waiting import until

WAITING = "Waiting for logs"


@pytest.fixture(autouse=True)
def nothing_is_left_of_others(url: str) -> None:
    """Delete what other tests, or the tutorials' own programs, may have left."""
    for queue in ("hello", "events.stock.reserve", "events.shipping.ship", "events.mail.write"):
        delete_queues(url, queue, f"{queue}.dead", f"amqp_rpc.bindings.{queue}")


def example(name: str, *words: str, url: str) -> str:
    return run(sys.executable, "-m", f"examples.{name}", *words, url=url)


def received(prints: Path) -> list[str]:
    return [line.removeprefix(" [x] ") for line in prints.read_text().splitlines() if line.startswith(" [x] ")]


def test_hello_world(url: str, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    with serving("examples.receive", url=url, prints=prints):
        assert example("send", url=url) == " [x] Sent 'Hello World!'\n"
        until(lambda: received(prints) == ["Received Hello World!"])


def test_every_line_of_the_log_comes_to_the_screen_and_to_the_file(url: str, tmp_path: Path) -> None:
    screen, file = tmp_path / "screen", tmp_path / "logs_from_rabbit.log"
    with (
        serving("examples.receive_logs", "--threads", "1", url=url, prints=screen),
        serving("examples.receive_logs", "--threads", "1", url=url, prints=file),
    ):
        assert example("emit_log", url=url) == " [x] Sent info: Hello World!\n"
        example("emit_log", "warning:", "it", "rains", url=url)
        for prints in (screen, file):
            until(lambda prints=prints: received(prints) == ["info: Hello World!", "warning: it rains"])


def listening(stack: ExitStack, name: str, asked: Sequence[Sequence[str]], *, url: str, folder: Path) -> list[Path]:
    """Start one receiver for each list of words; return their outputs."""
    files = [folder / f"printed{number}" for number in range(len(asked))]
    for words, prints in zip(asked, files, strict=True):
        stack.enter_context(
            running(sys.executable, "-m", f"examples.{name}", *words, url=url, prints=prints, ready=WAITING)
        )
    return files


def test_lines_by_their_severity_one_or_several_at_once(url: str, tmp_path: Path) -> None:
    asked = [["error"], ["warning", "error"], ["info", "warning", "error"]]
    with ExitStack() as stack:
        files = listening(stack, "receive_logs_direct", asked, url=url, folder=tmp_path)
        assert example("emit_log_direct", url=url) == " [x] Sent info:Hello World!\n"
        for severity in ("warning", "error"):
            example("emit_log_direct", severity, "Run.", "Run.", url=url)
        lines = ["info:Hello World!", "warning:Run. Run.", "error:Run. Run."]
        for words, prints in zip(asked, files, strict=True):
            expected = [line for line in lines if line.partition(":")[0] in words]
            until(lambda prints=prints, expected=expected: received(prints) == expected)


@pytest.mark.parametrize("name", ["receive_logs_direct", "receive_logs_topic"])
def test_a_receiver_that_is_told_nothing_says_how_it_is_used(name: str, url: str) -> None:
    said = run(sys.executable, "-m", f"examples.{name}", url=url, ends_with=1)
    assert said.startswith(f"usage: python -m examples.{name} [")
    assert said.count("\n") == 1


def test_lines_by_their_topics(url: str, tmp_path: Path) -> None:
    asked = [["#"], ["kern.*"], ["*.critical"], ["kern.*", "*.critical"]]
    topics = ["kern.critical", "kern.info", "cron.critical", "cron.info", "anonymous"]
    with ExitStack() as stack:
        files = listening(stack, "receive_logs_topic", asked, url=url, folder=tmp_path)
        assert example("emit_log_topic", url=url) == " [x] Sent anonymous.info:Hello World!\n"
        for topic in topics:
            example("emit_log_topic", topic, "A line", url=url)
        every = [f"{topic}:A line" for topic in topics]
        for prints, lines in zip(
            files,
            (["anonymous.info:Hello World!", *every], every[:2], [every[0], every[2]], every[:3]),
            strict=True,
        ):
            until(lambda prints=prints, lines=lines: received(prints) == lines)


def test_an_animal_comes_once_to_each_who_is_interested(url: str, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    with serving("examples.animals", "--threads", "1", url=url, prints=prints), Client(url) as client:
        for topic in ("quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy.brown.fox",
                      "lazy.pink.rabbit", "quick.brown.fox", "orange", "quick.orange.male.rabbit",
                      "lazy.orange.male.rabbit"):  # fmt: skip
            client.publish(topic)
        assert client.counters["unrouted"] == 3
        lines = [
            "orange: quick.orange.rabbit", "orange: lazy.orange.elephant", "orange: quick.orange.fox",
            "rabbits: quick.orange.rabbit", "rabbits: lazy.orange.elephant", "rabbits: lazy.brown.fox",
            "rabbits: lazy.pink.rabbit", "rabbits: lazy.orange.male.rabbit",
        ]  # fmt: skip
        until(lambda: sorted(prints.read_text().splitlines()) == sorted(lines))


def test_orders_go_their_way_and_one_that_can_t_is_a_dead_letter(url: str, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    services = [f"examples.orders:{name}" for name in ("shipping", "mail")]
    with (
        # Lines that several threads print may get mixed up.
        serving("examples.orders:stock", *services, "--threads", "1", url=url, prints=prints),
        Client(url) as client,
    ):
        assert example("place_order", url=url) == "3 orders placed\n"
        lines = [
            "mail: order 1 was placed", "mail: order 1 was reserved", "mail: order 1 was shipped",
            "mail: order 2 was placed", "mail: order 2 was refused", "mail: order 3 was placed",
            "shipping: 2 teapot for order 1",
        ]  # fmt: skip
        until(lambda: sorted(prints.read_text().splitlines()) == lines)
        letters = until(lambda: client.dead_letters("events.stock.reserve").list())
        assert [letter.reason for letter in letters] == ["rejected: there is no unicorn"]
