"""The log of `amqp-rpc serve`: a program that has set up its own keeps it, and loses and repeats no line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pika
import pytest

from amqp_rpc import Client
from amqp_rpc.cli import output
from amqp_rpc.cli.exits import Exit
from amqp_rpc.message import codec
from amqp_rpc.ops.dead_letters import Progress
from tests.programs import run, serving
from tests.served_by import Raw, raw  # noqa: F401 - a fixture

#: Set up the log as `serve` does, after the program; then we log, and the program does.
AFTER = """
import sys
from amqp_rpc.cli.output import set_up_log
set_up_log(*(each or None for each in sys.argv[1:]))
for logger in (logging.getLogger("amqp_rpc.server.tasks"), logging.getLogger("app.orders")):
    logger.error("an error"), logger.info("a detail")
"""
DICT = """
import logging.config
import amqp_rpc.server.tasks
logging.config.dictConfig({{
    "version": 1,
    "formatters": {{"own": {{"format": "OWN %(name)s %(message)s"}}}},
    "handlers": {{"own": {{"class": "logging.StreamHandler", "formatter": "own"}}}},
    {loggers}
}})
"""
OWN = re.compile(r"OWN (\S+) (.*)")
OURS = re.compile(r"\S+ \S+ [A-Z]+ (\S+) \[\d+\] (.*)")


def logged(program: str, level: str = "", config: str = "") -> list[tuple[str, str, str]]:
    """Run a program that sets up its log, or not; return whose format, which logger and what text, line by line."""
    command = [sys.executable, "-c", f"import logging\n{program}{AFTER}", level, config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = []
    for line in done.stderr.splitlines():
        own, ours = OWN.fullmatch(line), OURS.fullmatch(line)
        match = own or ours
        assert match is not None, line
        lines.append(("own" if own else "ours", *match.groups()))
    return lines


US, APP = ("amqp_rpc.server.tasks", "an error"), ("app.orders", "an error")
ROOT = '"root": {"handlers": ["own"]}'
PROGRAMS = {
    "nothing": ("", [("ours", *US), ("ours", *APP)]),
    "basicConfig": ("logging.basicConfig(format='OWN %(name)s %(message)s')", [("own", *US), ("own", *APP)]),
    "dictConfig, which disables loggers": (DICT.format(loggers=ROOT), [("own", *US), ("own", *APP)]),
    "a handler of the program's logger alone": (
        DICT.format(loggers='"loggers": {"app": {"handlers": ["own"]}}'), [("ours", *US), ("own", *APP)]
    ),
    "a handler of ours alone": (
        DICT.format(loggers='"loggers": {"amqp_rpc": {"handlers": ["own"]}}'), [("own", *US), ("ours", *APP)]
    ),
    "a level of ours alone": ("logging.getLogger('amqp_rpc').setLevel('CRITICAL')", [("ours", *APP)]),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_has_set_up_stays_and_each_line_comes_once(program: str) -> None:
    source, expected = PROGRAMS[program]
    assert logged(source) == expected


@pytest.mark.parametrize("program", ["nothing", "basicConfig"])
def test_a_level_that_is_asked_for_is_that_of_our_loggers(program: str) -> None:
    lines = logged(PROGRAMS[program][0], "INFO")
    assert [text for _, name, text in lines if name.startswith("amqp_rpc")] == ["an error", "a detail"]
    # A program that has set up nothing gets the level too.
    assert (("ours", "app.orders", "a detail") in lines) == (program == "nothing")


JSON = '{"version": 1, "formatters": {"f": {"format": "OWN %(name)s %(message)s"}}, "handlers": {"h": {"class":\
 "logging.StreamHandler", "formatter": "f"}}, "root": {"handlers": ["h"]}}'
INI = """[loggers]
keys=root
[handlers]
keys=h
[formatters]
keys=f
[logger_root]
handlers=h
[handler_h]
class=StreamHandler
args=()
formatter=f
[formatter_f]
format=OWN %(name)s %(message)s
"""


@pytest.mark.parametrize(("name", "text"), [("log.json", JSON), ("log.ini", INI)])
@pytest.mark.parametrize("program", ["nothing", "basicConfig"])
def test_a_file_sets_up_the_log(tmp_path: Path, name: str, text: str, program: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    before = PROGRAMS[program][0].replace("OWN", "BEFORE")
    assert logged(before, config=str(file)) == [("own", *US), ("own", *APP)]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("log.json", None, "FileNotFoundError: "),
        ("log.ini", None, "FileNotFoundError: "),
        ("log.json", "{", "JSONDecodeError: "),
        ("log.json", "{}", "dictionary doesn't specify a version"),
        ("log.json", JSON.replace("logging.Stream", "nosuch.Stream"), "No module named 'nosuch'"),
        ("log.ini", "x", "File contains no section headers"),
        ("log.ini", "", "log.ini"),
    ],
)
def test_a_file_that_can_t_be_used_is_one_line(tmp_path: Path, name: str, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    done = run("serve", "tests.served", "--log-config", str(tmp_path / name), url="amqp://nowhere.invalid")
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith(f"amqp-rpc: --log-config {tmp_path / name}: ")
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


SERVED = """
import logging.config
logging.config.dictConfig({"version": 1, "formatters": {"f": {"format": '{"from": "%(name)s", "text": "%(message)s"}'}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}, "root": {"handlers": ["h"]}})
from amqp_rpc import Service
service = Service("tlog")
@service.rpc
def fail() -> None:
    raise ValueError("broken")
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_served_module_with_a_log_of_its_own_has_what_handlers_raise_in_it(
    url: str, tmp_path: Path, processes: str
) -> None:
    (tmp_path / "own_log.py").write_text(SERVED)
    with serving("own_log", "--processes", processes, url=url, cwd=tmp_path) as server, Client(url) as client:
        with pytest.raises(ValueError, match="broken"):
            client.call("tlog.fail")
        server.until_said("Traceback (most recent call last):")
        (line,) = [each for each in server.text().splitlines() if "failed after" in each]
    assert json.loads(line)["from"] == "amqp_rpc.server.calls"


def test_long_work_prints_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_LINE_EVERY", 0.0)
    with output.Reports("replayed", ids=True) as reports:
        assert reports(Progress(100, 250, ("a", "b")))
        reports.stopped = True
        assert not reports(Progress(200, 250, ("c",)))
    assert (reports.done, reports.total) == (3, 250)
    assert capsys.readouterr() == ("a\nb\nc\n", "replayed: 100 of 250\nreplayed: 200 of 250\n")


def test_a_terminal_has_a_bar_that_is_gone_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_BAR_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with output.Reports("read") as reports:
        reports(Progress(100, 200, ("a",)))
    assert capsys.readouterr() == ("", f"\rread [{'#' * 15}{'-' * 15}] 100 of 200\033[K\r\033[K")


def test_a_process_names_itself_and_its_logger(url: str) -> None:
    with serving("tests.served", "--processes", "2", url=url) as server, Client(url) as client:
        client.enqueue("fail", "broken", queue="tserved_sums")
        server.until_said("dead-lettered")
        (line,) = [each for each in server.text().splitlines() if "dead-lettered" in each]
        assert any(f" ERROR amqp_rpc.server.tasks [{pid}] Task fail() [" in line for pid in server.children())
        # The traceback starts at the handler.
        assert server.text().count("amqp_rpc/server") == 0


def test_no_message_forges_a_line_of_the_log_or_fills_it(url: str, raw: Raw) -> None:  # noqa: F811 - the fixture
    forged = "x]\n2026-11-28 00:00:00,000 CRITICAL Task transfer() [real-1] succeeded\x1b[2J"
    huge = "y" * 2 * 2**20

    def put(queue: str, body: object, **properties: object) -> None:
        binary = codec.encode([[body], {}], codec.MSGPACK, limit=2**24)
        properties = {"content_type": codec.MSGPACK, "reply_to": None} | properties
        raw.channel.basic_publish("", queue, binary, pika.BasicProperties(**properties))

    with serving("tests.served", "--log-level", "info", url=url) as server:
        before = len(server.text())
        for text in (forged, huge):
            put("rpc_queue.tserved", text, type="refuse", message_id=forged)
            put("rpc_queue.tserved", text, type="refuse", reply_to=forged, correlation_id=forged)
            put("rpc_queue.tserved", text, type="hold", message_id=forged)
            put("rpc_queue.tserved", {text: 1}, type="echo", message_id=forged)
            put("tserved_sums", text, type="fail", message_id=forged, reply_to=forged)
        put("tserved_sums", forged, type=forged, message_id=forged, headers={"attempt": 1, "traceback": forged})
        put("rpc_queue.tserved", 1, type=forged, message_id=forged)
        put("tserved_sums", "the last", type="fail", message_id="the last")
        server.until_said("Task fail() [the last] failed")
    text = server.text()[before:]
    assert not re.search(r"^2026-11-28 00:00:00", text, re.MULTILINE)
    assert all(line.isprintable() and len(line) < 2200 for line in text.splitlines())
    assert len(text) < 100_000
