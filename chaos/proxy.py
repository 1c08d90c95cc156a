"""A TCP proxy whose connections can be cut and frozen: the network between the programs and one RabbitMQ node."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

_CHUNK = 65_536


class Proxy:
    """Listens on loopback and forwards to another port of loopback, on a thread of its own.

    A peer whose other side is unreachable or has died gets a reset, as from a machine that is gone.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {target}", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    @property
    def url(self) -> str:
        """The AMQP URL of the node through the proxy."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def cut(self) -> int:
        """Reset every connection, and return their number (each has two ends)."""

        async def cut() -> int:
            gone = list(self._writers)
            for writer in gone:
                _reset(writer)
            return len(gone) // 2

        return asyncio.run_coroutine_threadsafe(cut(), self._loop).result(10)

    def freeze(self) -> None:
        """Forward neither bytes nor ends of connections, and accept none, without closing any."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def thaw(self) -> None:
        """Forward again, starting with the bytes that were held back."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        """Reset every connection, listen no more and stop."""
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        self._flowing.set()
        # Their connections are reset, so all of them end by themselves.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._flowing.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            self._writers.discard(writer)
            _reset(writer)
            return
        self._writers.add(far_writer)
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction, and its end too."""
        try:
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()
            writer.close()
        except OSError:
            await self._flowing.wait()
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset; bytes that were not sent are lost."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
