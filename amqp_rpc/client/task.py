"""Tasks: how each is enqueued, and the handle that asks for its state and its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from amqp_rpc.amqp.declare import other_arguments
from amqp_rpc.amqp.pending import Outcome, Wait, Work, blocking
from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.errors import BrokerError, CallTimeout, ConfigurationError, ResultLost, StoreUnavailable
from amqp_rpc.message import codec, topology
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import ERROR, Message, Properties, task_properties
from amqp_rpc.message.settings import DEFAULT_TIMEOUT, LONGEST_EXPIRES, positive
from amqp_rpc.message.timing import backoff
from amqp_rpc.message.topology import units
from amqp_rpc.results import Store
from amqp_rpc.results.record import Record, State
from amqp_rpc.service.function import Function, registered_task
from amqp_rpc.service.policy import check_priority, check_task_queue

if TYPE_CHECKING:
    from amqp_rpc.client.rpc import Caller

R = TypeVar("R")

#: The longest time for which a key may be taken: a time to live has at most 32 bits of milliseconds.
LONGEST_UNIQUE = 40 * 86_400.0
#: Seconds between two looks into the store, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
#: Seconds until a store that did not answer is asked again.
_PAUSE_AFTER_FAILURE = 2.0
#: Seconds that a reply gets to arrive when the store says that the task has ended, and has lost how.
_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How the tasks of a function are enqueued, as one call of the client says.

    Args:
        function: Its name.
        queue: The queue that holds them.
        arguments: Those with which the queue is declared.
        guessed: Whether the arguments are a guess.
        known: The function's registration; None where only its name is known.
        delay: Units of `delays` until a worker may start one.
        eta: When a worker may start one; None for no such time.
        expires: Seconds after which no worker starts one any more; None for never.
        priority: From 0 to 9; None for none.
        result: Whether workers reply with the result.
    """

    function: str
    queue: str
    arguments: dict[str, Any]
    guessed: bool
    known: Function | None
    delay: int
    eta: datetime | None
    expires: float | None
    priority: int | None
    result: bool = True

    def publication(self, identity: str, body: bytes, *, timeout: float) -> Publication:
        """Return a task that is ready to be published.

        Args:
            identity: Its id.
            body: Its arguments, encoded.
            timeout: Seconds for the broker to confirm it.
        """
        now = time.time()
        properties = task_properties(
            function=self.function,
            identity=identity,
            expires=None if self.expires is None else now + self.expires,
            now=now,
            priority=self.priority,
        )
        delay = self.delay if self.eta is None else units(max(0.0, self.eta.timestamp() - now))
        message = Message(self.queue, properties, body, delay)
        return TaskPublication(message, self.arguments, guessed=self.guessed, replied=self.result, timeout=timeout)

    def claim(self, identity: str, key: bytes, seconds: float, *, timeout: float) -> Publication:
        """Return the message that takes a key for so many seconds; the broker refuses it where the key is taken.

        Args:
            identity: An id of its own.
            key: Equal for two tasks that are the same.
            seconds: How long it is taken.
            timeout: Seconds for the broker to answer.

        Raises:
            ConfigurationError: The time is not above 0, or longer than `LONGEST_UNIQUE`.
        """
        positive("unique_for", seconds, most=LONGEST_UNIQUE)
        key = self.function.encode() + b"\0" + key
        message = Message(
            topology.unique(self.queue, key, seconds), Properties(delivery_mode=2, message_id=identity), b""
        )
        return KeyPublication(message, topology.unique_arguments(seconds), function=self.function, timeout=timeout)


class TaskPublication(Publication):
    """A task on its way to the broker.

    Args:
        message: The task.
        arguments: Those of its queue.
        guessed: Whether they are a guess.
        replied: Whether its result comes over the reply queue.
        timeout: Seconds for the broker to confirm it.
    """

    __slots__ = ("guessed", "replied")

    never, again = "It will not run", "Enqueue it again only if it may run twice"

    def __init__(
        self, message: Message, arguments: dict[str, Any], *, guessed: bool, replied: bool, timeout: float
    ) -> None:
        super().__init__(message, arguments, timeout=timeout)
        self.guessed = guessed
        self.replied = replied

    @property
    def subject(self) -> str:
        """The task in words."""
        return f"{self.message.properties.type}()"

    @property
    def what(self) -> str:
        """The task, and what was not done with it."""
        return f"{self.subject} was not enqueued"

    def addressed(self, reply_queue: str | None) -> None:
        """Ask for the result: every connection has a reply queue of its own."""
        properties = self.message.properties
        properties.reply_to = reply_queue
        properties.correlation_id = self.identity if reply_queue is not None else None

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:
        """Return the error where its queue exists with other arguments."""
        return other_arguments(
            what, error, than="its tasks say",
            remedy="Nothing was enqueued; give @service.task its queue_type=, delete the queue, or take another name",
        )  # fmt: skip


class KeyPublication(TaskPublication):
    """The message that takes a task's key; the broker refuses it where the key is taken.

    Args:
        message: It is in the key's queue, which has room for one.
        arguments: Those of that queue.
        function: The task's.
        timeout: Seconds for the broker to answer.
    """

    __slots__ = ("_function",)

    once = True

    def __init__(self, message: Message, arguments: dict[str, Any], *, function: str, timeout: float) -> None:
        super().__init__(message, arguments, guessed=False, replied=False, timeout=timeout)
        self._function = function

    @property
    def subject(self) -> str:
        """The task in words."""
        return f"{self._function}()"


class TaskOptions(TypedDict, total=False):
    """The options of `Client.enqueue_many`, and of `Client.enqueue` with others."""

    queue: str | None
    delay: float | None
    eta: datetime | None
    expires: float | None
    priority: int | None


def plan(
    function: Any,
    *,
    queue: str | None = None,
    delay: float | None = None,
    eta: datetime | None = None,
    expires: float | None = None,
    priority: int | None = None,
) -> Plan:
    """Return how tasks are enqueued; the arguments are those of `Client.enqueue`.

    Raises:
        ConfigurationError: The function, the queue's name, a time or the priority makes no sense; or no worker could
            start one before it expires.
    """
    if delay is not None and eta is not None:
        raise ConfigurationError("delay= and eta= say the same in two ways; give one of them")
    if eta is not None and eta.tzinfo is None:
        raise ConfigurationError(f"eta has no time zone: {eta!r}; datetime.now(UTC) + … has one")
    if expires is not None:
        positive("expires", expires, most=LONGEST_EXPIRES)
    check_priority(priority)
    held = 0 if delay is None else units(delay)
    _check_begins((delay or 0.0) if eta is None else eta.timestamp() - time.time(), expires)
    if isinstance(function, str):
        service, dot, name = function.rpartition(".")
        if not name or (dot and not service):
            raise ConfigurationError(f'{function!r} names no task: "resize", or "images.resize" for a service\'s')
        target = queue or topology.task_queue(service or None)
        _check_names(target, name)
        return Plan(name, target, topology.task_arguments("quorum"), True, None, held, eta, expires, priority)
    if not callable(function):
        raise ConfigurationError(f"enqueue takes a task's name or a registered function, not {function!r}")
    known = registered_task(function)
    assert known.task is not None
    target = queue or known.queue
    _check_names(target, known.name)
    own = known.task.priority if priority is None else priority
    guessed = target != known.queue
    return Plan(
        known.name, target, known.task.queue_arguments, guessed, known, held, eta, expires, own, known.task.result
    )


def _check_begins(seconds: float, expires: float | None) -> None:
    if expires is not None and seconds > expires:
        raise ConfigurationError(
            f"no worker may take it before {seconds:g} s have passed, and after {expires:g} s none starts it any more "
            "(expires=): it would never run, only become a dead letter. expires= counts from now, not from the delay's "
            "end; give a longer one, or a shorter delay= or earlier eta="
        )


def _check_names(queue: str, function: str) -> None:
    """Check them here: one that AMQP can't carry would end the connection, each time that it is written."""
    check_task_queue(queue)
    try:
        size = len(function.encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{function!r} is no text that AMQP can carry: {error}") from error
    if size > topology.LONGEST_NAME:
        raise ConfigurationError(f"{function[:40]!r}…: a name in AMQP has at most {topology.LONGEST_NAME} bytes")


def encoded(args: Any, kwargs: Any, *, limit: int) -> bytes:
    """Return the body of a task or of a call."""
    return codec.encode([args, kwargs], MSGPACK, limit=limit)


def default_key(args: Any, kwargs: dict[str, Any], *, limit: int) -> bytes:
    """Return the key of a task that has none of its own: its arguments, whatever the order of the named ones."""
    return encoded(args, dict(sorted(kwargs.items())), limit=limit)


class TaskHandle(Generic[R]):
    """A task that was accepted: `Client.enqueue` and `Client.task` return it.

    Its result comes over the reply queue of the client that enqueued it, and is lost with that client or its
    connection; the task is not. With a store (``Client(results=…)``, and the same for the workers) it also comes from
    there, to any process and for as long as the store keeps it. Whichever is first counts.

    Args:
        id: The task's; the same on every attempt.
        queue: The queue that holds it; empty where that is not known.
        function: Its function's name; empty where that is not known.
        session: The client's.
        decoder: For its reply; None where workers send none and record nothing (``result=False``).
        store: Where workers record the outcomes of tasks; None for nowhere.
        replied: Whether its reply comes to this client, which enqueued it.
    """

    __slots__ = ("__weakref__", "_decoder", "_replied", "_reply", "_session", "_store", "function", "id", "queue")

    def __init__(
        self,
        id: str,  # noqa: A002 - as users write it
        queue: str,
        function: str,
        session: Caller,
        decoder: Decoder | None,
        *,
        store: Store | None,
        replied: bool,
    ) -> None:
        self.id = id
        self.queue = queue
        self.function = function
        self._session = session
        self._decoder = decoder
        self._store = store
        self._replied = replied
        self._reply = Outcome[Reply]()

    @property
    def state(self) -> State:
        """The state of the task, as far as it is known; with a store, this asks it.

        - ``"PENDING"``: no worker has started it. Also the state of an id that was never a task's, and of one whose
          record has expired; and, without a store, of all that have not ended.
        - ``"STARTED"``: a worker has started it, and may have died since: then another one starts it in its time.
        - ``"RETRY"``: it failed, and waits for its next attempt.
        - ``"SUCCESS"``: it has run to its end.
        - ``"FAILURE"``: it is a dead letter; or it has run, and its result can't be sent.

        Raises:
            StoreUnavailable: The store can't be asked.
            ConfigurationError: It was registered with ``result=False``.
        """
        return self.find_state()

    @blocking
    async def find_state(self) -> State:
        """Return the state of the task: see `state`."""
        return await self._known_state()

    async def _known_state(self) -> State:
        self._check_result()
        if not self._reply.done():
            record = await self._kept_record() if self._store is not None else None
            if record is not None:
                return record.state
            if not self._reply.done():
                return "PENDING"
        return "FAILURE" if self._reply.value.properties.type == ERROR else "SUCCESS"

    @blocking
    async def ready(self) -> bool:
        """Return whether it has ended: whether `result` returns or raises at once. With a store, this asks it.

        Raises:
            StoreUnavailable: The store can't be asked.
            ConfigurationError: It was registered with ``result=False``.
        """
        return await self._known_state() in ("SUCCESS", "FAILURE")

    @blocking
    async def result(self, *, timeout: float = DEFAULT_TIMEOUT) -> R:
        """Return what the function returned, or raise the error that made the task a dead letter.

        It waits for the reply, and asks the store meanwhile, where there is one: after pauses of 5 ms, growing to a
        quarter of a second. A store that does not answer may take up to five seconds more than the timeout.

        Args:
            timeout: Seconds to wait (30.0).

        Raises:
            CallTimeout: It has not ended yet (a `TimeoutError`); the task goes on. Without a store the result never
                comes if this client's connection was lost meanwhile.
            RemoteError: The function raised, on its last attempt.
            CallError, CodecError: It is a dead letter for another reason: `Expired`, `FunctionNotFound`,
                `InvalidArguments`, `MaybeExecuted` where its workers died, `Undecodable`.
            ResultLost: It has ended, and the store was away then; `state` says how it ended.
            ConfigurationError: It was registered with ``result=False``.
        """
        decoder = self._check_result()
        until = time.monotonic() + timeout
        looks, pause, trouble = 0, FIRST_PAUSE, ""
        # The reply of a brief task is faster than any store; for the id alone no reply comes.
        wait = self._replied
        while True:
            left = max(0.0, until - time.monotonic())
            if await self._arrived((left if self._store is None else min(pause, left)) if wait else 0.0):
                result: R = decoder.read(self._reply.value)
                return result
            wait = True
            try:
                lost = await self._look()
                looks += 1
                pause, trouble = backoff(looks, first=FIRST_PAUSE, most=LONGEST_PAUSE), ""
            except StoreUnavailable as error:
                lost, pause, trouble = None, _PAUSE_AFTER_FAILURE, f" ({error})"
            if self._reply.done():
                continue
            if lost is not None:
                if self._replied and await self._arrived(min(_GRACE, max(0.0, until - time.monotonic()))):
                    continue
                raise ResultLost(_lost(lost))
            if time.monotonic() >= until:
                name = f"{self.function}() " if self.function else ""
                raise CallTimeout(f"no result of task {name}[{self.id}] within {timeout:g} s; it goes on{trouble}")

    @blocking
    async def record(self) -> Record | None:
        """Return the store's record of it: its state, attempt, times and error; None where there is none.

        Raises:
            ConfigurationError: There is no store, or it was registered with ``result=False``.
            StoreUnavailable: It can't be asked.
        """
        self._check_result()
        if self._store is None:
            raise ConfigurationError(
                "this client has no store to ask about tasks; give it results=, the same URL as the workers have"
            )
        return await self._kept_record()

    async def _kept_record(self) -> Record | None:
        assert self._store is not None
        record: Record | None = await Work(partial(self._store.get, self.id))
        if record is not None:
            self.queue, self.function = record.queue, record.function
            if record.ended and record.kind is not None and record.body is not None:
                self.answered(Reply(Properties(content_type=record.content_type, type=record.kind), record.body))
        return record

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call back once its reply has come, or a look into the store has found its end.

        This starts no looks into the store: `state`, `ready`, `result` and `record` do. The callback runs on the thread
        that found it out, which may be the connection's I/O thread: it must be short, and must not call the client.
        """
        self._reply.on_done(callback)

    def answered(self, reply: Reply) -> None:
        """Accept its reply; called by the I/O thread, or by a thread that has looked into the store."""
        # The reply and the store's record say the same.
        self._reply.tell(reply)

    def _check_result(self) -> Decoder:
        if self._decoder is None:
            raise ConfigurationError(
                f"{self.function}() is registered with result=False: its tasks have no result and no state. "
                f"Those that failed are in the dead-letter queue: amqp-rpc dlq list {self.queue}"
            )
        return self._decoder

    async def _arrived(self, seconds: float) -> bool:
        """Wait for the reply; return whether it has come."""
        if seconds > 0:
            await Wait(self._reply, time.monotonic() + seconds)
        return self._reply.done()

    async def _look(self) -> Record | None:
        """Ask the store, where there is one; return the record of a task that has ended, and whose result is lost."""
        record = await self._kept_record() if self._store is not None else None
        return record if record is not None and record.ended and record.body is None else None

    def __repr__(self) -> str:
        return f"<TaskHandle {self.function}() [{self.id}] in {self.queue}>"


def task_by_id(
    id: str,  # noqa: A002 - as users write it
    function: Any,
    session: Caller,
    store: Store | None,
    *,
    limit: int,
) -> TaskHandle[Any]:
    """Return the handle of a task that any client has enqueued: see `Client.task`."""
    if store is None:
        raise ConfigurationError(
            "a task can be asked for by its id only where results are kept: give this client, and the workers, "
            'results="sqlite:///file.db" or results="redis://host:6379/0" (or set AMQP_RPC_RESULTS)'
        )
    if not isinstance(id, str) or not id:
        raise ConfigurationError(f"a task's id is the text of TaskHandle.id, not {id!r}")
    known = None if function is None else registered_task(function)
    kept = known is None or known.task is None or known.task.result
    return TaskHandle[Any](
        id,
        "" if known is None else known.queue,
        "" if known is None else known.name,
        session,
        Decoder(known, limit) if kept else None,
        store=store,
        replied=False,
    )


def _lost(record: Record) -> str:
    ended = f"{record.function}() [{record.id}] ended ({record.state})"
    why = f": {record.error}" if record.error else ""
    return (
        f"task {ended}{why}; its result is lost, since the store of results was away at that time. It is not run again"
    )
