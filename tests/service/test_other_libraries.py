"""Names of other libraries' options, and what each one is called here."""

from __future__ import annotations

import re

import pytest

from amqp_rpc.client.typing import Options
from amqp_rpc.service.other_libraries import hint
from amqp_rpc.service.signature import CALL_OPTIONS, TASK_OPTIONS

# The arguments of Celery's apply_async, dramatiq's send_with_options and RQ's enqueue.
CELERY = (
    "args kwargs countdown retry retry_policy routing_key exchange serializer compression link link_error "
    "task_id shadow time_limit soft_time_limit ignore_result retries max_retries"
)
OTHERS = "job_timeout result_ttl depends_on job_id at_front on_success on_failure max_age min_backoff _defer_until"


@pytest.mark.parametrize("name", f"{CELERY} {OTHERS}".split())
def test_each_has_a_hint(name: str) -> None:
    assert f"{name}=" in hint([name], [], task=True)


def test_a_parameter_of_the_name_and_an_unknown_name_have_none() -> None:
    assert hint(["countdown"], ["countdown"], task=True) == ""
    assert hint(["colour"], ["path"], task=True) == ""


def test_an_advice_names_options_that_exist() -> None:
    for task, options in ((True, TASK_OPTIONS), (False, CALL_OPTIONS)):
        for name in (*CELERY.split(), *OTHERS.split(), "eta", "delay", "deadline", "wait"):
            for option in re.findall(r" write (\w+)=", hint([name], [], task=task)):
                assert option in options.names
                assert option in Options.__annotations__
