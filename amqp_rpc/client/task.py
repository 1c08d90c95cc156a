"""Tasks: how each is enqueued, and the handle that asks for its state and its result.

It is longer than other modules: much of it is the reference of the handle's methods, and the errors of a handle need
what its plan knows of the queue.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from amqp_rpc.amqp.declare import advice, other_arguments
from amqp_rpc.amqp.pending import Outcome, Wait, Work, blocking
from amqp_rpc.amqp.publisher import Publication, Publisher
from amqp_rpc.client.bulk import Batch
from amqp_rpc.client.call import encode_argument
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.errors import (
    AlreadyQueued,
    AmqpRpcError,
    BrokerError,
    CallTimeout,
    ConfigurationError,
    ConnectionLost,
    PublishRefused,
    ResultLost,
    StoreUnavailable,
)
from amqp_rpc.message import codec, topology
from amqp_rpc.message.codec import LARGE, MSGPACK, ContentType
from amqp_rpc.message.envelope import APPLICATION, ERROR, Message, Properties, task_properties
from amqp_rpc.message.headers import check_headers
from amqp_rpc.message.settings import LONGEST_EXPIRES, positive
from amqp_rpc.message.text import bounded_logger, plural, safe_repr
from amqp_rpc.message.timing import Expiry, Seconds, backoff, moment_of, seconds_of
from amqp_rpc.message.topology import units
from amqp_rpc.ops.queue_states import never_served, queue_states
from amqp_rpc.results import Store
from amqp_rpc.results.record import Record, State, fingerprint
from amqp_rpc.service.function import Function, registered_task
from amqp_rpc.service.other_libraries import hint
from amqp_rpc.service.policy import priority_of
from amqp_rpc.service.service import queues_of

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import QueueState
    from amqp_rpc.client.rpc import Caller

logger: logging.Logger = bounded_logger(__name__)

R = TypeVar("R")

#: Seconds that `TaskHandle.result` waits: longer than the default retries take, 1 + 2 + 4 + 8 + 16 s and a fifth.
DEFAULT_RESULT_TIMEOUT = 60.0
#: The longest time for which a key may be taken: a time to live has at most 32 bits of milliseconds.
LONGEST_UNIQUE = 40 * 86_400.0
#: Seconds between two looks into the store, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
#: Seconds until a store that did not answer is asked again.
_PAUSE_AFTER_FAILURE = 2.0
#: Seconds to ask the broker about a queue, beside what it was asked for.
_LOOK = 1.0
#: Seconds that a reply gets to arrive when the store says that the task has ended, and has lost how.
_GRACE = 1.0


class EnqueueManyOptions(TypedDict, total=False):
    """The options of `Client.enqueue_many`, and of `Client.enqueue` with others."""

    queue: str | None
    delay: Seconds | None
    eta: datetime | None
    expires: Seconds | datetime | None
    priority: int | None
    content_type: ContentType | None
    headers: Mapping[str, Any] | None


class Plan:
    """How the tasks of a function are enqueued, as one call of the client says.

    Raises:
        ConfigurationError: The function, the queue's name, a time or the priority makes no sense; or no worker could
            start one before it expires.
    """

    def __init__(
        self,
        session: Caller,
        store: Store | None,
        limit: int,
        timeout: float,
        function: Any,
        **options: Unpack[EnqueueManyOptions],
    ) -> None:
        self._session = session
        self._store = store
        self._limit = limit
        self._timeout = timeout
        queue, delay = options.pop("queue", None), options.pop("delay", None)
        eta, expires = options.pop("eta", None), options.pop("expires", None)
        priority = options.pop("priority", None)
        self._priority = None if priority is None else priority_of(priority)
        content_type = options.pop("content_type", None)
        headers = options.pop("headers", None)
        self._headers = None if headers is None else check_headers(headers, "a task") or None
        if options:
            advice = hint(options, (), task=True)
            raise TypeError(f"enqueue_many() got an unexpected keyword argument {min(options)!r}{advice}")
        self._delay = 0 if delay is None else units(delay)
        #: The Unix time until which it waits; and what it may wait for at most.
        self._eta = None if eta is None else moment_of("eta", eta)
        now = time.time()
        self._expiry = None if expires is None else Expiry.of(expires, now=now, most=LONGEST_EXPIRES)
        if delay is not None and self._eta is not None:
            raise ConfigurationError("delay= and eta= say the same in two ways; give one of them")
        self._check_expiry(self._delay * topology.UNIT if self._eta is None else self._eta - now)
        if self._eta is not None and self._eta - now > topology.LONGEST_DELAY:
            raise ConfigurationError(f"eta={eta!r} is more than {topology.LONGEST_DELAY // 86_400:.0f} days ahead")
        codec.check_content_type(content_type)
        self._content_type = content_type or MSGPACK
        self.function: str
        self.queue: str
        #: The function's registration; None where only its name is known. And whether workers reply with the result.
        self._known: Function | None = None
        self._result = True
        #: The arguments with which the queue is declared, and whether they are a guess.
        self._arguments: dict[str, Any] | None = topology.task_arguments("quorum")
        self._guessed = True
        if isinstance(function, str):
            service, dot, self.function = function.rpartition(".")
            if not self.function or (dot and not service):
                raise ConfigurationError(f'{function!r} names no task: "resize", or "images.resize" for a service\'s')
            self.queue = queue or topology.task_queue(service or None)
        elif callable(function):
            self._known = known = registered_task(function)
            assert known.task is not None
            self.function, self.queue, self._result = known.name, queue or known.queue, known.task.result
            self._arguments, self._guessed = known.task.queue_arguments, self.queue not in known.task.queues
            if self._priority is None:
                self._priority = known.task.priority
        else:
            raise ConfigurationError(f"enqueue takes a task's name or a registered function, not {function!r}")
        self._decoder = Decoder(self._known, limit) if self._result else None
        # Here: a name that AMQP can't carry would end the connection, each time that it is written.
        topology.check_task_queue(self.queue)
        topology.check_name(self.function)

    async def enqueue(
        self, args: Any, kwargs: dict[str, Any], *, unique_for: Seconds | None, unique_key: str | None
    ) -> TaskHandle[Any]:
        """Enqueue a task, and return its handle once the broker has confirmed it: see `Client.enqueue`."""
        body = self.body(args, kwargs)
        if unique_for is None:
            if unique_key is not None:
                raise ConfigurationError("unique_key= is the key of unique_for=, which says for how long; give both")
            return await self._accepted(body)
        # The order of named arguments does not count.
        key = self.body(args, dict(sorted(kwargs.items()))) if unique_key is None else unique_key.encode()
        claim = self._claim(key, unique_for)
        self._session.publish(claim)
        try:
            await self._session.confirm(claim)
        except PublishRefused as error:
            if claim.refused:
                raise AlreadyQueued(
                    f"{self.function}() was not enqueued: one with the same key was, less than "
                    f"{seconds_of(unique_for):g} s ago"
                ) from error
            raise
        except AmqpRpcError as error:
            # Whatever became of the key, the task was not sent.
            error.may_have_run = False
            error.add_note("The task was not sent. Its key may be taken in vain now.")
            raise
        try:
            return await self._accepted(body)
        except AmqpRpcError as error:
            if not error.may_have_run:
                self._session.purge(claim.message.routing_key)
            raise

    def body(self, args: Any, kwargs: Any) -> bytes:
        """Return the body of a task, whose arguments are checked where its function is known."""
        if not codec.packed(self._content_type):
            # The worker converts the text.
            return encode_argument(self.function, args, kwargs, self._content_type, limit=self._limit)
        if self._known is not None:
            self._known.check(args, kwargs)
        return codec.encode([args, kwargs], self._content_type, limit=self._limit)

    def start(self, body: bytes) -> tuple[Publication, TaskHandle[Any]]:
        """Publish a task, without waiting for the confirm."""
        now = time.time()
        properties = task_properties(
            function=self.function,
            # At random: programs hand it out to their users, and it asks for the task's result.
            identity=self._session.identity(),
            expires=None if self._expiry is None else self._expiry.at(now),
            now=now,
            priority=self._priority,
            content_type=self._content_type,
            headers=self._headers,
        )
        delay = self._delay if self._eta is None else units(max(0.0, self._eta - now))
        message = Message(self.queue, properties, body, delay)
        # By position, and without the handle's type: a class that is called by names, or as `TaskHandle[Any]`, takes
        # twice as long, and many tasks may be enqueued.
        publication = TaskPublication(message, self._arguments, self._timeout, self._guessed, self._result)
        handle: TaskHandle[Any] = TaskHandle(
            publication.identity,
            self.queue,
            self.function,
            self._session,
            self._decoder,
            self._store,
            self._result,
            None if self._store is None else fingerprint(self.queue, self.function, self._content_type, body),
        )
        if self._result:
            # Before it is published: a worker may be faster than the confirm.
            self._session.expect(handle)
        self._session.publish(publication)
        return publication, handle

    async def look(self) -> None:
        """Warn once of a queue that no server has ever served, if its name is a guess."""
        if not self._guessed or self.queue in self._session.looked:
            return
        self._session.looked.add(self.queue)
        # The task was accepted: nothing that fails here may say otherwise.
        with contextlib.suppress(BrokerError):
            if await self._session.script(never_served(self._session, self.queue), timeout=_LOOK):
                others = await _other_queues(self._session, self.queue, self.function)
                logger.warning(
                    "queue %s: no server has ever served it; tasks of %s() wait there until one does%s",
                    self.queue, self.function, others,
                )  # fmt: skip

    async def _accepted(self, body: bytes) -> TaskHandle[Any]:
        publication, handle = self.start(body)
        await self._session.confirm(publication)
        await self.look()
        return handle

    def _claim(self, key: bytes, unique_for: Seconds) -> Publication:
        """Return the message that takes a key for so many seconds; the broker refuses it where the key is taken."""
        seconds = positive("unique_for", unique_for, most=LONGEST_UNIQUE)
        name = topology.unique(self.queue, self.function.encode() + b"\0" + key, seconds)
        message = Message(name, Properties(delivery_mode=2, message_id=self._session.identity()), b"")
        arguments = topology.unique_arguments(seconds)
        return KeyPublication(message, arguments, function=self.function, timeout=self._timeout)

    def _check_expiry(self, wait: float) -> None:
        """Check that a task which waits for so many seconds does not expire meanwhile."""
        if self._expiry is not None and wait > self._expiry.seconds:
            raise ConfigurationError(
                f"no worker may take it before {wait:g} s have passed, and after {self._expiry.seconds:g} s none "
                "starts it any more (expires=): it would never run, only become a dead letter. expires= counts from "
                "now, not from the delay's end; give a longer one, or a shorter delay= or earlier eta="
            )


class TaskPublication(Publication):
    """A task on its way to the broker."""

    __slots__ = ("guessed", "replied")

    never: str = "It will not run"
    again: str = "Enqueue it again only if it may run twice"

    def __init__(
        self, message: Message, arguments: dict[str, Any] | None, timeout: float, guessed: bool, replied: bool
    ) -> None:
        super().__init__(message, arguments, timeout=timeout)
        self.guessed: bool = guessed
        self.replied: bool = replied

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

    @property
    def bounded(self) -> bool:
        """A bound may refuse it, also one that another program has given its queue."""
        return self.arguments is None or super().bounded

    def confirmed(self, publisher: Publisher) -> None:
        """End it; where another program's queue does not exist, with the error that says so."""
        if self.returned and self.arguments is None:
            missing = f"there is no queue {self.message.routing_key!r}, which another program declares"
            publisher.end(self, PublishRefused(f"{self.what}: {missing}. {self.never}"))
        else:
            super().confirmed(publisher)

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:
        """Return the error where its queue exists with other arguments."""
        return other_arguments(
            what, error, than="its tasks say",
            remedy="Nothing was enqueued. "
            + advice(error, "@service.task", "queue_type=, max_length= and max_priority="),
        )  # fmt: skip


class KeyPublication(TaskPublication):
    """The message that takes a task's key, for a queue that has room for one."""

    __slots__ = ("_function",)

    once = True

    def __init__(self, message: Message, arguments: dict[str, Any], *, function: str, timeout: float) -> None:
        super().__init__(message, arguments, timeout, guessed=False, replied=False)
        self._function = function

    @property
    def subject(self) -> str:
        """The task in words."""
        return f"{self._function}()"

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:
        """Return the error where the queue of its key can't be declared."""
        return other_arguments(
            what, error, than="the key's (unique_for)",
            remedy="Nothing was enqueued; delete that queue, which another program declared",
        )  # fmt: skip

    @property
    def unknown(self) -> ConnectionLost:
        """The error if the broker may have the key: the task was not sent."""
        return ConnectionLost(
            f"{self.what}{self.within}: the broker did not confirm its key, which may be taken in vain now"
        )


class TaskBatch(Batch["TaskHandle[Any]"]):
    """The tasks of one `Client.enqueue_many`, whose results are their handles."""

    one: str = "task"
    others: str = "will run"
    handled: bool = True

    def __init__(self, session: Caller, plan: Plan) -> None:
        super().__init__(session)
        self._plan = plan
        self.of: str = f" of {plan.function}()"
        self.before: str = f"enqueued before, for {plan.function}(), and will run"

    def start(self, item: Any) -> tuple[Publication, TaskHandle[Any]]:
        """Enqueue one."""
        if isinstance(item, tuple):
            return self._plan.start(self._plan.body(item, {}))
        if isinstance(item, Mapping):
            return self._plan.start(self._plan.body((), dict(item)))
        raise ConfigurationError(
            f"enqueue_many takes a tuple of positional arguments or a mapping of named ones for each task, not "
            f"{type(item).__name__}; one argument is (x,)"
        )

    async def publish(self, items: Iterable[Any]) -> list[TaskHandle[Any]]:
        """Enqueue all; return their handles once the broker has confirmed each."""
        handles = await super().publish(items)
        if handles:
            await self._plan.look()
        return handles


class TaskHandle(Generic[R]):
    """A task that was accepted: `Client.enqueue` and `Client.task` return it.

    Its result comes over the reply queue of the client that enqueued it, and is lost with that client or its
    connection; the task is not. With a store (``Client(results=…)``, and the same for the workers) it also comes from
    there, to any process and for as long as the store keeps it. Whichever is first counts.
    """

    __slots__ = (
        "__weakref__", "_decoder", "_known_as", "_replied", "_reply", "_session", "_store", "function", "id", "queue",
    )  # fmt: skip

    def __init__(
        self,
        id: str,  # noqa: A002 - as users write it
        queue: str,
        function: str,
        session: Caller,
        decoder: Decoder | None,
        store: Store | None,
        replied: bool,
        known_as: str | None = None,
    ) -> None:
        self.id: str = id
        self.queue: str = queue
        self.function: str = function
        self._session = session
        self._decoder = decoder
        self._store = store
        self._replied = replied
        #: Its fingerprint, which tells it from other tasks with its id; None if only its id is known.
        self._known_as = known_as
        self._reply: Outcome[Reply] = Outcome()

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
            StoreUnavailable, Undecodable: The store can't be asked, or has no record of ours there.
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
            StoreUnavailable, Undecodable: The store can't be asked, or has no record of ours there.
            ConfigurationError: It was registered with ``result=False``.
        """
        return await self._known_state() in ("SUCCESS", "FAILURE")

    @blocking
    async def result(self, *, timeout: Seconds = DEFAULT_RESULT_TIMEOUT) -> R:
        """Return the function's result, or raise the error that made the task a dead letter.

        It waits for the reply, and asks the store meanwhile, where there is one: after pauses of 5 ms, growing to a
        quarter of a second. A store that does not answer may take up to five seconds more than the timeout.

        Args:
            timeout: Seconds to wait (60.0: longer than the default retries take, 31 s and a fifth). 0 looks once.

        Raises:
            CallTimeout: No result came in time (a `TimeoutError`). It says what the store and the broker know of the
                task, which may take a second more. Without a store the result never comes if this client's connection
                was lost meanwhile.
            RemoteError: The function raised, on its last attempt.
            CallError, CodecError: It is a dead letter for another reason: `Expired`, `FunctionNotFound`,
                `InvalidArguments`, `MaybeExecuted` where its workers died, `Undecodable`.
            ResultLost: It has ended, and the store was away then; `state` says how it ended.
            ConfigurationError: It was registered with ``result=False``.
        """
        decoder = self._check_result()
        seconds = timeout if isinstance(timeout, float) else seconds_of(timeout)
        if seconds is None:
            raise ConfigurationError(f"a timeout is a number of seconds, not {timeout!r}")
        until = time.monotonic() + seconds
        record: Record | None = None
        # The reply of a brief task is faster than any store; for the id alone no reply comes.
        looks, pause, trouble, wait = 0, FIRST_PAUSE, "", self._replied
        while True:
            left = max(0.0, until - time.monotonic())
            if await self._arrived((left if self._store is None else min(pause, left)) if wait else 0.0):
                read = partial(decoder.read, self._reply.value, self.function)
                result: R = await Work(read) if len(self._reply.value.body) > LARGE else read()
                return result
            wait = True
            try:
                record = await self._kept_record() if self._store is not None else None
                looks += 1
                pause, trouble = backoff(looks, first=FIRST_PAUSE, most=LONGEST_PAUSE), ""
            except StoreUnavailable as error:
                record, pause, trouble = None, _PAUSE_AFTER_FAILURE, str(error)
            if self._reply.done():
                continue
            if record is not None and record.ended:
                if self._replied and await self._arrived(min(_GRACE, max(0.0, until - time.monotonic()))):
                    continue
                raise ResultLost(_lost(record))
            if time.monotonic() >= until:
                name = f"{self.function}() " if self.function else ""
                known = "; ".join([*self._facts(record, trouble), *await self._queue_facts()])
                raise CallTimeout(f"no result of task {name}[{self.id}] within {seconds:g} s: {known}")

    def _facts(self, record: Record | None, trouble: str) -> list[str]:
        """Return the store's facts about the task."""
        if trouble:
            return [trouble]
        if record is None:
            if self._store is None:
                return []
            wrong = "" if self._replied else ", its record has expired, or the id is wrong"
            return [f"the store has no record of it: no worker with the same results= has started it{wrong}"]
        if record.state == "RETRY":
            due = max(0.0, (record.next_try or 0.0) - time.time())
            return [f"attempt {record.attempt} failed ({record.error}), and the next one is due in {due:.0f} s"]
        ago = max(0.0, time.time() - (record.started or record.updated))
        return [f"a worker started attempt {record.attempt} {ago:.0f} s ago, and has not ended it"]

    async def _queue_facts(self) -> list[str]:
        """Return the broker's facts about the queue; none if the queue is not known."""
        if not self.queue:
            return []
        try:
            state = await self._session.script(_state(self._session, self.queue), timeout=_LOOK)
        except (BrokerError, ConfigurationError):
            return [f"the broker does not answer, so nothing is known of queue {self.queue!r}"]
        if state is None:
            return [f"there is no queue {self.queue!r}"]
        waiting = plural(state.messages, "message waits", "messages wait")
        if state.consumers:
            return [f"queue {self.queue!r} has {plural(state.consumers, 'consumer', 'consumers')}, and {waiting} in it"]
        others = await _other_queues(self._session, self.queue, self.function)
        return [f"queue {self.queue!r} has no consumers, and {waiting} in it: `amqp-rpc serve` starts a worker{others}"]

    @blocking
    async def record(self) -> Record | None:
        """Return the store's record of it, if there is one: its state, attempt, times and error.

        Raises:
            ConfigurationError: There is no store, or it was registered with ``result=False``.
            StoreUnavailable, Undecodable: It can't be asked, or has no record of ours there.
        """
        self._check_result()
        if self._store is None:
            raise ConfigurationError(
                "this client has no store to ask about tasks; give it results=, the same URL as the workers have"
            )
        return await self._kept_record()

    async def _kept_record(self) -> Record | None:
        assert self._store is not None
        record: Record | None = await Work(partial(self._store.get, self.id, self._known_as))
        if record is not None:
            self.queue, self.function = record.queue, record.function
            if record.ended and record.kind is not None and record.body is not None:
                told = Properties(content_type=record.content_type, type=record.kind, app_id=APPLICATION)
                self.answered(Reply(told, record.body))
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
            error = ConfigurationError(
                f"{self.function}() is registered with result=False: its tasks have no result and no state. "
                f"Those that failed are in the dead-letter queue: amqp-rpc dlq list {self.queue}"
            )
            # The task was enqueued.
            error.may_have_run = True
            raise error
        return self._decoder

    async def _arrived(self, seconds: float) -> bool:
        """Wait for the reply; return whether it has come."""
        if seconds > 0:
            await Wait(self._reply, time.monotonic() + seconds)
        return self._reply.done()

    @safe_repr
    def __repr__(self) -> str:
        return f"<TaskHandle {self.function}() [{self.id}] in {self.queue}>"


def task_by_id(id: str, function: Any, session: Caller, store: Store | None, *, limit: int) -> TaskHandle[Any]:  # noqa: A002
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
    queue, name = ("", "") if known is None else (known.queue, known.name)
    decoder = Decoder(known, limit) if kept else None
    return TaskHandle[Any](id, queue, name, session, decoder, store=store, replied=False)


def _lost(record: Record) -> str:
    ended = f"{record.function}() [{record.id}] ended ({record.state})"
    why = f": {record.error}" if record.error else ""
    return (
        f"task {ended}{why}; its result is lost, since the store of results was away at that time. It is not run again"
    )


async def _state(session: Caller, queue: str) -> QueueState | None:
    return (await queue_states(session, [queue]))[queue]


async def _other_queues(session: Caller, queue: str, function: str) -> str:
    """Return the other queues that may be meant for a task, as the end of a sentence; "" if there are none."""
    service = queue.removeprefix(topology.task_queue("")) if queue.startswith(topology.task_queue("")) else None
    known = [each for each in queues_of(function) if each != queue]
    if known:
        return f". This program knows {function}() in queue {' and '.join(map(repr, known))}: give it queue="
    likely = dict.fromkeys([service or function, function, topology.task_queue(), topology.task_queue(function)])
    if service:
        likely[topology.call_queue(service)] = None
    likely.pop(queue, None)
    try:
        states = await session.script(queue_states(session, likely), timeout=_LOOK)
    except (BrokerError, ConfigurationError):
        return ""
    found = [repr(each) for each, state in states.items() if state is not None]
    return f". Queues with such names: {', '.join(found)}" if found else ""
