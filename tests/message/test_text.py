"""Values as text for people; what strangers write is one line of bounded length, and can't control a terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import amqp_rpc
from amqp_rpc import errors
from amqp_rpc.errors import RemoteError, one_line
from amqp_rpc.message.failures import describe_raised, rebuild
from amqp_rpc.message.text import bounded_logger, brief, lines, plural, quoted, text_of, traceback_text
from amqp_rpc.ops.dead_letters import DeadLetters

#: What forges a line of a log, and what controls a terminal: ESC, and CSI as one character.
FORGED = "x]\n2026-11-28 00:00:00,000 CRITICAL Task transfer() succeeded"
CONTROLS = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
HUGE = 8 * 2**20


@pytest.mark.parametrize(("count", "said"), [(0, "0 tasks were"), (1, "1 task was"), (2, "2 tasks were")])
def test_one_is_singular_and_any_other_number_plural(count, said):
    assert plural(count, "task was", "tasks were") == said


def test_a_huge_value_is_shown_in_brief():
    assert len(brief(["x" * 1000] * 1000)) < 1000


class Hostile:
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def test_a_value_without_text_has_its_types_name():
    assert brief(Hostile()).startswith("<Hostile")
    # Python 3.14 adds how many digits it has.
    assert brief(10**5000).startswith("<int")
    assert text_of(Hostile()) == "(Hostile, whose text raises RuntimeError)"
    assert text_of("half a pair: \ud800") == "half a pair: \\ud800"


def test_beside_a_number_that_is_too_long_the_rest_of_a_value_is_shown():
    assert brief([1, 10**5000, {"a": 10**5000}]).startswith("[1, <int")


class TestOneLine:
    @pytest.mark.parametrize("text", ["", "orders.eu.paid", "Müller 日本 😀", "a\\nb"])
    def test_what_can_be_printed_stays_as_it_is(self, text):
        assert quoted(text) == text

    @pytest.mark.parametrize("text", [FORGED, CONTROLS, "a\r\nb", "\u2028", "\ud800", "\x85", "\0"])
    def test_what_can_t_be_printed_is_escaped(self, text):
        assert quoted(text).isprintable()

    @pytest.mark.parametrize("text", ["x" * HUGE, "\0" * HUGE, "\n" * HUGE])
    def test_what_is_long_is_cut(self, text):
        assert len(quoted(text)) <= 2030

    def test_any_value_has_one(self):
        assert quoted(Hostile()).startswith("(Hostile")
        assert quoted(7) == "7"


class TestErrors:
    @pytest.mark.parametrize(
        "error", [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    )
    def test_each_shows_a_stranger_s_text_on_one_line(self, error):
        shown = str(error(FORGED + CONTROLS + "x" * HUGE))
        assert shown.isprintable()
        assert len(shown) <= 2030

    def test_a_handler_s_exception_too_and_its_message_is_as_it_was(self):
        rebuilt = rebuild(describe_raised(ValueError(FORGED), traceback=None))
        assert isinstance(rebuilt, ValueError)
        assert (str(rebuilt), rebuilt.message) == (one_line(FORGED), FORGED)  # type: ignore[attr-defined]

    def test_nothing_that_python_prints_of_it_begins_as_a_line_of_the_log_or_controls_the_terminal(self):
        described = describe_raised(ValueError(FORGED + CONTROLS), traceback=f"Traceback\n{FORGED}{CONTROLS}")
        described["data"]["notes"] = [FORGED + CONTROLS, "2026-11-28 00:00:00,000 CRITICAL Task transfer() succeeded"]
        error = rebuild(described)
        syntax = describe_raised(SyntaxError("bad", (FORGED, 1, 1, FORGED + CONTROLS)), traceback=None)
        for each in (error, rebuild(syntax)):
            printed = traceback_text(type(each), each, None)
            assert not [line for line in printed.split("\n") if line.startswith("2026-11-28") or not line.isprintable()]

    def test_a_note_of_several_lines_keeps_them(self):
        error = ValueError("late")
        error.add_note("It was here:\n  File a\x1b[2J")
        rebuilt = rebuild(describe_raised(error, traceback=None))
        assert rebuilt.__notes__ == ["  It was here:\n    File a\\x1b[2J"]

    def test_of_a_stranger_s_notes_the_first_ones_are_kept(self):
        described = describe_raised(ValueError("late"), traceback=None)
        described["data"]["notes"] = ["a note"] * 10_000
        assert len(rebuild(described).__notes__) == 20

    def test_an_error_reply_is_small_whatever_the_handler_said(self):
        for error in (ValueError("x" * HUGE), KeyError("x" * HUGE), OSError(1, "no", "x" * HUGE)):
            described = describe_raised(error, traceback=traceback_text(type(error), error, None))
            assert len(repr(described)) < 20_000
        for value in (b"x" * HUGE, ["x"] * HUGE, 10**100_000, {"a": "x" * HUGE}):
            assert len(brief(describe_raised(ValueError(value), traceback=None)["data"]["args"])) < 5000
        assert len(describe_raised(ValueError(*range(10_000)), traceback=None)["data"]["args"]) <= 100

    def test_usual_arguments_arrive_as_they_are(self):
        given = (1, "a\nb", b"c", [1, "x"], None, 2.5, 10**500)
        assert rebuild(describe_raised(ValueError(*given), traceback=None)).args == given


class TestTheLog:
    @pytest.fixture
    def log(self) -> Iterator[io.StringIO]:
        logger, written = bounded_logger("amqp_rpc.of_this_test"), io.StringIO()
        handler = logging.StreamHandler(written)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s %(id)s", defaults={"id": "-"}))
        logger.addHandler(handler)
        yield written
        logger.removeHandler(handler)

    logger = logging.getLogger("amqp_rpc.of_this_test")

    def test_each_record_is_one_line(self, log):
        self.logger.error("Task %s() [%s] failed", "a\nb", FORGED + CONTROLS, extra={"id": FORGED})
        self.logger.error("said: %s", "x" * HUGE)
        written = log.getvalue().removesuffix("\n").split("\n")
        assert len(written) == 2
        assert all(line.isprintable() and len(line) < 2100 for line in written)

    def test_of_a_traceback_no_line_looks_like_one_of_the_log_and_its_frames_stay(self, log):
        try:
            raise ValueError(FORGED + CONTROLS + "x" * HUGE)
        except ValueError:
            self.logger.exception("failed")
        _, *traceback = log.getvalue().removesuffix("\n").split("\n")
        assert all(line.startswith("  ") and line.isprintable() and len(line) < 2100 for line in traceback)
        assert any("in test_of_a_traceback" in line for line in traceback)
        assert len(log.getvalue()) < 25_000

    def test_nothing_is_done_for_a_record_that_is_not_logged(self, log):
        self.logger.debug("said: %s", Hostile())
        assert log.getvalue() == ""

    def test_every_logger_of_the_package_is_bounded(self):
        package = Path(amqp_rpc.__file__)
        found = [path for path in package.parent.rglob("*.py") if "getLogger(__name__)" in path.read_text()]
        # The package's own has a handler and logs nothing.
        assert found == [package]


def test_the_lines_of_a_text_are_indented_and_its_end_is_kept():
    assert lines("a\nb\x1b\n", "  ") == "  a\n  b\\x1b"
    assert lines("x\n" * 100_000 + "the cause").endswith("\nthe cause")


def test_a_remote_error_has_its_message_and_shows_it_on_one_line():
    error = RemoteError()
    error.message = "a\nb"
    assert str(error) == "a\\nb"


def test_what_an_object_says_of_itself_is_one_line():
    assert repr(DeadLetters(None, FORGED, timeout=1.0, whole=False)).isprintable()  # type: ignore[arg-type] # it is not used
