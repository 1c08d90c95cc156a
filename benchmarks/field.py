"""The contenders that run: their servers and clients on one broker, and the rounds in which they take turns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.contenders import PREFETCH, Contender
from benchmarks.environments import HERE, UnavailableError, interpreter, programs
from benchmarks.measuring import Entry
from benchmarks.processes import BrokenError, Client, Process, await_consumers
from benchmarks.protocol import Reply

#: Seconds of a measurement that is thrown away, before the rounds.
_WARM = 0.2


class Field:
    """Contenders' servers, which run all the time (idle ones cost next to nothing), and a client for each.

    Args:
        url: The broker's.
        logs: A folder for what they say on standard error.
        stack: Ends all that is started.
        tree: The checkout of this project that is measured; another one than this has its own ``.venv``.
    """

    def __init__(self, url: str, logs: Path, stack: ExitStack, tree: Path = HERE.parent) -> None:
        self._tree = tree
        self._url = url
        self._logs = logs
        self._stack = stack
        self.contenders: dict[str, Contender] = {}
        self.servers: dict[str, Process] = {}
        self.clients: dict[str, Client] = {}
        #: Why a contender is not there, by its name.
        self.missing: dict[str, str] = {}

    def enter(self, contenders: Sequence[Contender]) -> None:
        """Start all servers, then the clients; who can't be started is left out, and said to be."""
        for contender in contenders:
            try:
                self.servers[contender.name] = self._process(contender)
            except UnavailableError as error:
                self._leave_out(contender, error)
        for contender in contenders:
            if contender.name not in self.servers:
                continue
            try:
                await_consumers(self.servers[contender.name], self._url, contender.queue)
                self.contenders[contender.name] = contender
                self._client(contender.name)
            except BrokenError as error:
                self._leave_out(contender, error)

    def serve(self, contender: Contender, *, consumers: int) -> Process:
        """Start one more server and wait until it is ready."""
        server = self._process(contender)
        await_consumers(server, self._url, contender.queue, consumers)
        return server

    def connect(self) -> None:
        """Have every client make its first calls: some connect no sooner."""
        for name in self.contenders:
            self._measure(Entry("i", name, {"case": "one", "seconds": _WARM, "size": 100}))

    def play(self, entries: Sequence[Entry], rounds: int, *, warm: bool) -> None:
        """Measure each entry once in each round; each round begins with another one."""
        if warm:
            for entry in entries:
                self._measure(Entry(entry.case, entry.contender, {**entry.request, "seconds": _WARM}, entry.variant))
        for number in range(rounds):
            first = number * len(entries) // max(1, rounds)
            for entry in [*entries[first:], *entries[:first]]:
                self.measure(entry, entries)
            say(f"  round {number + 1} of {rounds} done")

    def measure(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """Measure an entry once more, unless there is no hope for it."""
        if entry.hopeless or self._falls_behind(entry, entries):
            entry.skip()
        else:
            self._measure(entry)

    def _measure(self, entry: Entry) -> None:
        try:
            reply = self._ask(entry)
        except BrokenError as error:
            client = self.clients.pop(entry.contender, None)  # the next turn starts another one
            if client is not None:
                client.end()
            reply = {"error": str(error)}
        entry.take(reply)
        if "error" in reply:
            server = self.servers.get(entry.contender)
            said = f" (its server's last line: {server.last_words})" if server is not None else ""
            say(f"  ({entry.case}) {entry.label} failed: {reply['error']}{said}")

    def _ask(self, entry: Entry) -> Reply:
        return self._client(entry.contender).ask(entry.request)

    def _falls_behind(self, entry: Entry, entries: Sequence[Entry]) -> bool:
        """Return whether a contender could not keep up with a lower rate already."""
        rate = entry.request.get("rate", 0.0)
        return any(
            other.overruns > len(other.measured) or (other.measured and not other.keeps_up)
            for other in entries
            if other.contender == entry.contender and other.request.get("rate", rate) < rate
        )

    def _client(self, name: str) -> Client:
        if name not in self.clients:
            contender = self.contenders[name]
            client = Client(
                self._words(contender, contender.client),
                self._log(contender, "client"),
                self._variables(contender),
                folder=self._tree,
            )
            self._stack.callback(client.end)
            self.clients[name] = client
        return self.clients[name]

    def _process(self, contender: Contender) -> Process:
        words = self._words(contender, contender.server)
        server = Process(words, self._log(contender, "server"), self._variables(contender), folder=self._tree)
        self._stack.callback(server.end)
        return server

    def _words(self, contender: Contender, words: Sequence[str]) -> list[str]:
        if contender.folder == "c":
            return [str(programs() / words[0]), *words[1:]]
        own = str(self._tree / ".venv" / "bin" / "python") if self._tree != HERE.parent else None
        return [own or interpreter(contender.folder), *words]

    def _variables(self, contender: Contender) -> dict[str, str]:
        url = {"AMQP_URL": self._url, "AMQP_RPC_URL": self._url}
        return {**url, "BENCH_QUEUE": contender.queue, "BENCH_PREFETCH": str(PREFETCH), **contender.environment}

    def _log(self, contender: Contender, role: str) -> Path:
        return self._logs / f"{contender.name}-{role}.log"

    def _leave_out(self, contender: Contender, error: Exception) -> None:
        self.missing[contender.name] = str(error)
        self.contenders.pop(contender.name, None)
        if server := self.servers.pop(contender.name, None):
            server.end()
        say(f"{contender.name} is left out: {error}")


def say(line: str) -> None:
    """Tell how far the bench is."""
    print(line, file=sys.stderr, flush=True)
