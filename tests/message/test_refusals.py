"""What the broker's reply code and text say together, in the words of RabbitMQ 3.10, 4.0 and 4.3."""

from __future__ import annotations

import re
import shlex

import pytest

from amqp_rpc.message.refusals import (
    CONFIGURE,
    READ,
    WRITE,
    Rights,
    is_access,
    is_conflict,
    is_limit,
    largest_body,
    three_patterns,
)

#: Each with what it is: a limit, another refusal of access, a conflict, a large message, or something else.
TEXTS = """
limit 530 NOT_ALLOWED - access to vhost 'v' refused for user 'guest': connection limit (0) is reached
limit 530 NOT_ALLOWED - connection refused for user 'guest': user connection limit (1) is reached
limit 530 NOT_ALLOWED - connection refused: node connection limit (5) is reached
limit 530 NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (2)
limit 530 NOT_ALLOWED - number of channels opened for user 'l' has reached the maximum allowed user limit of (2)
limit 530 NOT_ALLOWED - number of channels opened on node 'n' has reached the maximum allowed limit of (2)
limit 406 PRECONDITION_FAILED - queue limit in vhost 'v' (45) is reached
limit 406 PRECONDITION_FAILED - cannot declare queue 'q' in vhost 'v': queue limit in vhost 'v' (45) is reached
limit 406 PRECONDITION_FAILED - cannot declare exchange 'x' in vhost '/': exchange limit of 9 is reached
access 530 NOT_ALLOWED - vhost v not found
access 530 NOT_ALLOWED - access to vhost 'v' refused for user 'guest'
access 403 ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'ann'
conflict 406 PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but …
conflict 406 PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'logs' in vhost '/': received 'topic' but …
conflict 405 RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'
size 406 PRECONDITION_FAILED - message size 20000008 is larger than configured max size 16777216
size 406 PRECONDITION_FAILED - message size 20000008 is larger than max size 16777216
size 406 PRECONDITION_FAILED - message size 20000008 larger than configured max size 16777216
else 406 PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue
else 406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 15000 ms
else 406 PRECONDITION_FAILED - unknown delivery tag 7
else 404 NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor
else 320 CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'
else 541 INTERNAL_ERROR
"""


@pytest.mark.parametrize("text", TEXTS.strip().splitlines())
def test_the_text_decides_where_a_code_has_several_meanings(text: str) -> None:
    meaning, said = text.split(" ", 1)
    code = int(said.split()[0])
    said = f"the broker closed the channel: {said}"
    assert is_limit(said) == (meaning == "limit")
    assert is_access(code, said) == (meaning in ("limit", "access"))
    assert is_conflict(said) == (meaning == "conflict")
    assert largest_body(said) == (16777216 if meaning == "size" else None)


#: Without the right, as RabbitMQ 3.10 has it; and with it, as 4.0 and 4.3 do.
REFUSED = "403 ACCESS_REFUSED - {}access to {} in vhost '{}' refused for user 'ann'"


@pytest.mark.parametrize("said", ["", "right "])
@pytest.mark.parametrize(
    ("needs", "named", "right", "patterns"),
    [
        ([], "exchange 'amq.default'", WRITE, ("^$", r"^amq\.default$", "^$")),
        ([], "exchange 'amqp_rpc.delay.07'", WRITE, ("^$", r"^amqp_rpc\.delay\.\d\d$", "^$")),
        ([(CONFIGURE, "thumbs")], "queue 'thumbs'", CONFIGURE, ("^thumbs$", "^$", "^$")),
        ([(READ, "thumbs")], "queue 'thumbs'", READ, ("^$", "^$", "^thumbs$")),
        ([], "queue 'thumbs'", READ, ("^$", "^$", "^thumbs$")),
        ([(WRITE, "q"), (READ, "x")], "exchange 'x'", READ, ("^$", "^q$", "^x$")),
        ([(CONFIGURE, "q"), (WRITE, "")], "exchange 'amq.default'", WRITE, ("^q$", r"^amq\.default$", "^$")),
        # A reply queue is of no use to who may not consume it.
        ([(CONFIGURE, "amq.gen-")], "queue 'amq.gen-7Zq'", CONFIGURE, (r"^amq\.gen-.*$", "^$", r"^amq\.gen-.*$")),
    ],
)  # fmt: skip
def test_a_missing_right_is_said_with_the_command_that_gives_it(said, needs, named, right, patterns):
    text = REFUSED.format(said.replace("right", right), named, "/")
    missing = Rights().missing(text, needs)
    assert missing.startswith(f". User 'ann' lacks the right to {right} {named}. ")
    assert shlex.split(missing.partition("needs: ")[2]) == [
        "rabbitmqctl",
        "set_permissions",
        "-p",
        "/",
        "ann",
        *patterns,
    ]


def test_the_command_has_all_that_the_broker_allowed_before():
    rights = Rights()
    rights.use([(CONFIGURE, "amq.gen-a"), (CONFIGURE, "amq.gen-b")])
    rights.use([(READ, "amq.gen-a")])
    rights.written |= {"", "amqp_rpc.delay.03", "amqp_rpc.delay.04"}
    missing = rights.missing(REFUSED.format("", "queue 'it''s'", "a b"), [(CONFIGURE, "it''s")])
    assert shlex.split(missing.partition("needs: ")[2])[2:] == [
        "-p", "a b", "ann", r"^(amq\.gen-.*|it''s)$", r"^(amq\.default|amqp_rpc\.delay\.\d\d)$", r"^amq\.gen-.*$",
    ]  # fmt: skip


def test_a_topic_has_permissions_of_its_own():
    missing = Rights().missing(REFUSED.format("", "topic 'pay.x' in exchange 'logs'", "/"), [])
    assert missing.endswith(
        r"the right to write topic 'pay.x': rabbitmqctl set_topic_permissions -p / ann logs '^pay\.x$' '.*'"
    )


@pytest.mark.parametrize(
    "text", [each.partition(" ")[2] for each in TEXTS.strip().splitlines() if "exchange 'amq" not in each]
)
def test_other_refusals_lack_no_right(text):
    assert Rights().missing(text, [(CONFIGURE, "q")]) == ""


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["thumbs.dead", "thumbs"], r"^thumbs(\.dead)?$"),
        (["a.b.c", "a.b", "a.b.d", "x"], r"^(a\.b(\.(c|d))?|x)$"),
        (["amqp_rpc.delay.03", "amqp_rpc.delay.arrivals"], r"^amqp_rpc\.delay\.(\d\d|arrivals)$"),
        (["a.", "a", ".b"], r"^(\.b|a(\.)?)$"),
        ([], "^$"),
    ],
)
def test_a_pattern_has_common_beginnings_once_and_fits_exactly_its_names(names, wanted):
    patterns = three_patterns([(READ, name) for name in names])
    assert patterns == ("^$", "^$", wanted)
    assert all(re.search(patterns[2], name) for name in names)
    assert not any(re.search(patterns[2], name) for name in ("thumbs.dea", "a.b.", "a.c", "amqp_rpc.delay", "b", ".c"))


def test_a_command_that_is_too_long_for_an_error_is_named_instead():
    needs = [(READ, f"a.rather.long.name.of.a.queue.{number}".replace(".", "_")) for number in range(40)]
    missing = Rights().missing(REFUSED.format("", "queue 'q'", "/"), [(READ, "q"), *needs])
    assert missing.endswith("is printed by: amqp-rpc permissions server MODULE --vhost / --user ann")
