"""The memory of a server is bounded by its prefetch and by the size of a body, whatever is sent to it."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqp_rpc.message.codec import MEMORY
from tests.served_by import Raw
from tests.waiting import until

SIZE, PREFETCH = 2**20, 3

SERVER = """
import asyncio, sys, threading
from amqp_rpc import Server, Service

service = Service(sys.argv[2])

@service.rpc
def hold(value):
    print("held", flush=True)
    threading.Event().wait()

@service.rpc
async def hold_async(value):
    print("held", flush=True)
    await asyncio.Event().wait()

size, prefetch = int(sys.argv[3]), int(sys.argv[4])
Server(service, url=sys.argv[1], max_message_size=size, prefetch=prefetch, threads=prefetch).start()
print("ready", flush=True)
threading.Event().wait()
"""


def array(count: int, item: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


#: Bodies with nearly as many values as one may have: they take twenty times their bytes.
WORST = {
    "lists": array(180_000, b"\x90"),
    "maps": array(85_000, b"\x80"),
    "Decimals": array(SIZE // 7, b"\xd4\x04\x39"),
    "short texts": array(SIZE // 3 - 100, b"\xa2\xd1\x8e"),
}


@pytest.fixture
def start(url: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", SERVER, url, name, str(SIZE), str(PREFETCH)], stdout=subprocess.PIPE, text=True
            )
        )
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def peak(server: subprocess.Popen[str]) -> int:
    """The most bytes of memory that a process has had."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("function", ["hold", "hold_async"])
def test_it_takes_a_multiple_of_prefetch_and_size_however_much_is_sent(start: Any, raw: Raw, function: str) -> None:
    name = f"t{secrets.token_hex(6)}"
    server = start(name)
    before, queue = peak(server), f"rpc_queue.{name}"
    for _ in range(3):
        for worst in WORST.values():
            raw.send(queue, b"\x92\x91" + worst + b"\x80", type=function, content_type="application/msgpack")
    for _ in range(PREFETCH):
        assert server.stdout.readline() == "held\n"
    until(lambda: raw.count(queue) == 3 * len(WORST) - PREFETCH, what="the others to wait in the broker")
    taken = peak(server) - before
    assert PREFETCH * SIZE < taken < MEMORY * PREFETCH * SIZE
