"""`amqp-rpc publish` and `amqp-rpc listen` as a user meets them: what is printed, and codes for what goes wrong."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest

from amqp_rpc import Client, Exchange
from amqp_rpc.cli.exits import Exit
from tests.programs import ROOT, run, serving
from tests.served_by import Raw, raw  # noqa: F401 - a fixture
from tests.waiting import until


@pytest.fixture
def topic() -> str:
    return f"t{secrets.token_hex(6)}"


class Listening:
    """A running `amqp-rpc listen`."""

    def __init__(self, process: subprocess.Popen[str], printed: Path, said: Path) -> None:
        self.process = process
        self._printed = printed
        self._said = said

    def lines(self) -> list[str]:
        return self._printed.read_text().splitlines()

    def said(self) -> str:
        return self._said.read_text()


@contextmanager
def listening(*arguments: str, url: str, folder: Path, ends: signal.Signals = signal.SIGINT) -> Iterator[Listening]:
    printed, said = folder / "printed", folder / "said"
    with printed.open("w") as output, said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "amqp_rpc", "listen", *arguments],
            env={**os.environ, "AMQP_URL": url}, cwd=ROOT, stdout=output, stderr=errors, text=True,
        )  # fmt: skip
    try:
        found = Listening(process, printed, said)
        until(lambda: "Listening to" in found.said() or process.poll() is not None, timeout=30)
        assert process.poll() is None, found.said()
        yield found
        process.send_signal(ends)
        assert process.wait(30) == Exit.OK, found.said()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_events_are_printed_as_they_arrive_text_or_json(url: str, tmp_path: Path, topic: str) -> None:
    with listening(f"{topic}.kern.*", f"{topic}.*.critical", url=url, folder=tmp_path) as found:
        assert (
            f"Listening to {topic}.kern.*, {topic}.*.critical of the topic exchange 'amqp_rpc.events'" in found.said()
        )
        for words in (["kern.info", "all", "is", "well"], ["kern.critical", '{"n": 1}'], ["cron.critical", "-5"],
                      ["cron.info", "no"], ["cron.critical"]):  # fmt: skip
            done = run("publish", f"{topic}.{words[0]}", *words[1:], url=url)
            assert (done.returncode, done.stderr, len(done.stdout.split())) == (Exit.OK, "", 1)
        lines = ["kern.info all is well", 'kern.critical {"n":1}', "cron.critical -5", "cron.critical null"]
        until(lambda: found.lines() == [f"{topic}.{line}" for line in lines])


def test_json_on_the_command_line_is_json_for_every_program(url: str, topic: str, raw: Raw) -> None:  # noqa: F811
    raw.channel.queue_declare(topic, exclusive=True)
    for words, content_type, body in (
        (['{"order": 7}'], "application/json", b'{"order":7}'),
        (["42"], "application/json", b"42"),
        (['"42"'], "text/plain", b"42"),
        (["4", "2"], "text/plain", b"4 2"),
    ):
        # The default exchange, for a queue of another program.
        done = run("publish", topic, *words, "--exchange", "", "--mandatory", url=url)
        assert (done.returncode, done.stderr) == (Exit.OK, "")
        properties, came = raw.get(topic)
        assert (properties.content_type, came) == (content_type, body)
    done = run("publish", f"{topic}.x", "a", "--exchange", "", "--mandatory", url=url)
    assert (done.returncode, done.stderr) == (
        Exit.NO_SERVER, f"amqp-rpc: there is no queue '{topic}.x' for this event: nobody gets it\n",
    )  # fmt: skip


def test_a_closed_pipe_ends_it_quietly(url: str, topic: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "amqp_rpc", "listen", f"{topic}.#"],
        env={**os.environ, "AMQP_URL": url}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process, Client(url) as client:  # fmt: skip
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert "Listening" in process.stderr.readline()
            process.stdout.close()
            until(lambda: client.publish(f"{topic}.a", "b") and process.poll() is not None, timeout=30)
            assert (process.returncode, process.stderr.read()) == (Exit.OK, "")
        finally:
            process.kill()


def test_with_json_everything_about_an_event_is_printed(url: str, tmp_path: Path, topic: str) -> None:
    with listening(f"{topic}.#", "--json", url=url, folder=tmp_path) as found:
        identity = run("publish", topic, "5", "--header", "tenant=acme", "--header", "n=3", url=url).stdout.strip()
        until(found.lines)
        said = json.loads(found.lines()[0])
        assert said.pop("time").endswith(("Z", "+00:00"))
        assert said == {"topic": topic, "payload": 5, "headers": {"tenant": "acme", "n": 3}, "id": identity}


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_no_queue_stays(url: str, tmp_path: Path, topic: str, ends: signal.Signals) -> None:
    with listening(f"{topic}.#", url=url, folder=tmp_path, ends=ends):
        assert run("publish", topic, "--mandatory", url=url).returncode == Exit.OK
    done = run("publish", topic, "--mandatory", url=url)
    assert (done.returncode, done.stderr.count("\n")) == (Exit.NO_SERVER, 1)
    assert "no queue is bound" in done.stderr


def test_bytes_that_can_t_be_decoded_are_shown(url: str, tmp_path: Path, topic: str, raw: Raw) -> None:  # noqa: F811
    with listening(f"{topic}.#", url=url, folder=tmp_path) as found:
        raw.channel.basic_publish("amqp_rpc.events", topic, b"\xff\x00")
        raw.channel.basic_publish("amqp_rpc.events", f"{topic}.é", "grün".encode())
        until(lambda: found.lines() == [rf"{topic} b'\xff\x00'", f"{topic}.é grün"])


@pytest.mark.parametrize(
    ("kind", "asked", "given"),
    [
        ("fanout", [], [""]),
        ("direct", ["info", "error"], ["error"]),
        ("headers", ["--header", "format=pdf"], ["", "--header", "format=pdf", "--header", "pages=3"]),
    ],
)
def test_every_kind_of_exchange_can_be_named(
    url: str, tmp_path: Path, topic: str, kind: str, asked: list[str], given: list[str]
) -> None:
    exchange = ["--exchange", topic, "--type", kind, "--transient"]
    with listening(*asked, *exchange, url=url, folder=tmp_path) as found:
        assert run("publish", given[0], "hello", *given[1:], *exchange, "--mandatory", url=url).returncode == Exit.OK
        until(lambda: found.lines() == [f"{given[0]} hello".strip()])


FAILURES = {
    "a pattern": (["listen", "a..b"], Exit.USAGE, "has an empty word"),
    "part of a word": (["listen", "kern*"], Exit.USAGE, "whole words"),
    "no topic": (["listen", "--exchange", "tcli_x", "--type", "direct"], Exit.USAGE, "needs a topic"),
    "no header": (["listen", "--header", "x", "--type", "headers"], Exit.USAGE, "NAME=VALUE"),
    "another kind, listen": (["listen", "--exchange", "tcli_fanout"], Exit.CONFIGURATION, "inequivalent arg 'type'"),
    "another kind": (["publish", "a", "--exchange", "tcli_fanout"], Exit.CONFIGURATION, "inequivalent arg 'type'"),
    "a long topic": (["publish", "x" * 256], Exit.USAGE, "at most 255 bytes"),
    "a header of ours": (["publish", "a", "--header", "attempt=3"], Exit.USAGE, "are amqp_rpc's"),
    "a wrong host": (["publish", "a", "--url", "amqp://x.invalid"], Exit.NO_BROKER, "name is not known"),
    "a wrong host, listen": (["listen", "--url", "amqp://x.invalid"], Exit.NO_BROKER, "name is not known"),
    "no such option": (["publish", "a", "--what"], Exit.USAGE, "No such option"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line_with_an_exit_code_of_its_own(url: str, failure: str) -> None:
    with Client(url) as client:
        client.publish("", exchange=Exchange("tcli_fanout", "fanout"))
    arguments, code, message = FAILURES[failure]
    done = run(*arguments, url=url)
    assert message in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code != Exit.USAGE:
        assert len(done.stderr.splitlines()) == 1


def test_the_banner_names_the_subscriptions(url: str) -> None:
    with serving("tests.served_events", url=url) as server:
        said = server.text()
        assert "events.tevents.note_and_stay" in said
        assert "event note_and_stay(path: str, event: Event) -> None on tevents.stay\n" in said
        assert "event note(path: str) -> None on tevents.all, in every process\n" in said


def test_a_server_whose_exchange_is_of_another_kind_ends_with_one_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other_kind.py").write_text(
        "from amqp_rpc import Service\nservice = Service('tcli')\n"
        "@service.subscribe('a', exchange='tcli_fanout')\ndef f(n: int) -> None: ...\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Client(url) as client:
        client.publish("", exchange=Exchange("tcli_fanout", "fanout"))
    done = run("serve", "other_kind", url=url)
    assert (done.returncode, done.stderr.count("\n")) == (Exit.CONFIGURATION, 1)
    assert "it is no topic exchange 'tcli_fanout'" in done.stderr


def test_a_bad_pattern_is_one_line_when_it_is_imported(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_pattern.py").write_text(
        "from amqp_rpc import Service\nservice = Service('tcli')\n@service.subscribe('a.*x')\ndef f() -> None: ...\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = run("serve", "bad_pattern", url=url)
    assert (done.returncode, done.stderr.count("\n")) == (Exit.CONFIGURATION, 1)
    assert "bad_pattern.py:3: f(): the pattern 'a.*x'" in done.stderr


def test_unprintable_characters_are_escaped_and_can_t_control_the_terminal(
    url: str,
    topic: str,
    tmp_path: Path,
    raw: Raw,  # noqa: F811 - the fixture
) -> None:
    def publish(body: bytes) -> None:
        properties = pika.BasicProperties(content_type="application/json")
        raw.channel.basic_publish("amqp_rpc.events", f"{topic}.x", body, properties)

    for options, first, second in (
        ([], "\\ud800", "one\\ntwo\\x1b[31m\\x9b"),
        (["--json"], '"payload":"b\'\\"', '"payload":"one\\ntwo\\u001b[31m\\u009b"'),
    ):
        folder = tmp_path / f"{len(options)}"
        folder.mkdir()
        with listening(f"{topic}.*", *options, url=url, folder=folder) as it:
            publish(b'"\\ud800"')
            # ESC [, and the same as one character.
            publish(b'"one\\ntwo\\u001b[31m\\u009b"')
            until(lambda it=it: len(it.lines()) == 2)  # type: ignore[misc] # bound now
            for line, expected in zip(it.lines(), (first, second), strict=True):
                assert expected in line
