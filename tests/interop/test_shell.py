"""A shell with Debian's amqp-tools gets its answers from our server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.interop.programs import leaves_the_type, run

pytestmark = leaves_the_type

CLIENT = Path(__file__).with_name("rpc_client.sh")


@pytest.fixture(autouse=True, scope="module")
def amqp_tools() -> None:
    if shutil.which("amqp-publish") is None:
        reason = "no amqp-tools here: apt-get install amqp-tools"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)


def test_a_number_in_text_is_answered(served):
    assert run(CLIENT, "30", url=served) == "832040\n"


def test_json_is_answered_in_json(served):
    assert run(CLIENT, '[[], {"n": 30}]', "application/json", url=served) == "832040\n"


def test_a_bad_body_is_answered_with_what_is_wrong_with_it(served):
    assert run(CLIENT, "x", url=served).startswith("InvalidArguments: fib(): parameter 'n'")
