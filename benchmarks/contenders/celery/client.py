"""A client with ``task.delay(…).get()``."""

from __future__ import annotations

from celery.result import AsyncResult

from benchmarks import closed, open_loop
from benchmarks.contenders.celery.app import echo
from benchmarks.protocol import PATIENCE, answer


def finish(result: AsyncResult) -> object:
    return result.get(timeout=PATIENCE)


def call(text: str) -> object:
    return finish(echo.delay(text))


if __name__ == "__main__":
    answer(
        {
            "one": lambda request: closed.one(call, request),
            "many": lambda request: closed.window(echo.delay, finish, request),
            "threads": lambda request: closed.threads([call] * request["threads"], request),
            "open": lambda request: open_loop.oldest_first(echo.delay, finish, request),
        }
    )
