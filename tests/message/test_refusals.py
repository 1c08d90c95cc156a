"""What the broker's reply code and text say together, in the words of RabbitMQ 3.10, 4.0 and 4.3."""

from __future__ import annotations

import pytest

from amqp_rpc.message.refusals import is_access, is_conflict, is_limit, largest_body

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
