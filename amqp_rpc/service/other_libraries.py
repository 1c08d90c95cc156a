"""Names of options in other libraries (Celery, dramatiq, RQ, arq, huey), and what each one is called here. Pure.

It is a seam: the words are other libraries', and change with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

_FIXED = "@service.task({}) sets it, for all tasks of the function"
_KEPT = "Server(result_expires=…) sets it, for all results"
_NEXT = "enqueue the next task at the end of the function"
_PLAIN = "give the arguments themselves: enqueue(resize, 'a.png', size=3)"
_DEAD = "a task that fails for good is a dead letter: amqp-rpc dlq, Client.dead_letters"
_NONE = "the id is made here, and enqueue returns it: TaskHandle.id"
_CALL_OPTIONS = "a call has timeout= and idempotent="

#: Names beside a task's arguments, as users of other libraries write them, and what does the same here.
_OF_TASKS = {
    "countdown": "write delay=",
    "defer_by": "write delay=",
    "defer_until": "write eta=",
    "run_at": "write eta=",
    "execute_at": "write eta=",
    "max_age": "write expires=, in seconds",
    "ttl": "write expires=, in seconds",
    "routing_key": "write queue=",
    "exchange": "write queue=",
    "queue_name": "write queue=",
    "at_front": "write priority=9",
    "unique": "write unique_for=",
    "singleton": "write unique_for=",
    "retries": _FIXED.format("retries=…"),
    "retry": _FIXED.format("retries=…"),
    "max_retries": _FIXED.format("retries=…"),
    "autoretry_for": _FIXED.format("retry_for=…"),
    "retry_policy": _FIXED.format("retries=…, backoff=…"),
    "retry_backoff": _FIXED.format("backoff=…"),
    "retry_delay": _FIXED.format("backoff=…"),
    "default_retry_delay": _FIXED.format("backoff=…"),
    "min_backoff": _FIXED.format("backoff=…"),
    "max_backoff": _FIXED.format("backoff=…"),
    "time_limit": _FIXED.format("time_limit=…"),
    "soft_time_limit": _FIXED.format("time_limit=…"),
    "job_timeout": _FIXED.format("time_limit=…"),
    "ignore_result": _FIXED.format("result=False"),
    "store_results": _FIXED.format("result=False"),
    "result_ttl": _KEPT,
    "result_expires": _KEPT,
    "keep_result": _KEPT,
    "link": _NEXT,
    "chain": _NEXT,
    "depends_on": _NEXT,
    "pipe_target": _NEXT,
    "on_success": _NEXT,
    "link_error": _DEAD,
    "on_error": _DEAD,
    "on_failure": _DEAD,
    "failure_ttl": _DEAD,
    "shadow": _FIXED.format("name=…"),
    "serializer": "write content_type=",
    "compression": "bodies are not compressed",
    "args": _PLAIN,
    "kwargs": _PLAIN,
    "task_id": _NONE,
    "job_id": _NONE,
    "message_id": _NONE,
}
#: The same beside a call's arguments; a task's options among them.
_OF_CALLS = {
    **dict.fromkeys(
        ("countdown", "delay", "eta", "expires", "priority", "unique_for", "unique_key"),
        f"{_CALL_OPTIONS}; what can wait is a task: @service.task, and client.enqueue",
    ),
    **dict.fromkeys(
        ("retries", "retry", "max_retries", "retry_policy"),
        "idempotent=True has a lost call sent again",
    ),
    **dict.fromkeys(("deadline", "time_limit", "ttl", "rpc_timeout", "expiration"), "write timeout=, in seconds"),
    "wait": "write wait_for_server=True",
    "args": "give the arguments themselves: call(fib, 30)",
    "kwargs": "give the arguments themselves: call(fib, 30)",
}


def hint(given: Iterable[str], parameters: Collection[str], *, task: bool) -> str:
    """Return the advice for names that are no parameters, as the end of an error; "" if there is none.

    Example:
        >>> hint(["countdown"], ["path"], task=True)
        '. For countdown= write delay='
    """
    words = _OF_TASKS if task else _OF_CALLS
    for name in given:
        advice = words.get(name.lstrip("_"))
        if advice is not None and name not in parameters:
            return f". For {name}= {advice}" if advice.startswith("write") else f". {name}=: {advice}"
    return ""
