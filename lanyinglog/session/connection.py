"""One client connection: what it asks is answered, in order, within bounds, and no fault of it reaches further.

What the client sends is read and answered by `reader`, what it is sent waits in `outbox`, which has a task that writes,
and so has each subscription; publishes are acknowledged in the order in which they came, by the loop that commits them.
Back-pressure has one form: the reader stops reading, and TCP tells the client. It does so while the log has no room for
batches, while too many batches of this connection are unacknowledged, and while the client does not take its replies.

Ends
| what happened | what the client sees |
|---|---|
| a request makes no sense or can't be served | `Error` with its request id; the connection goes on |
| the client broke the protocol, or was too slow about a hello or a frame | `Error` with request id 0, then the end |
| the node stops (this task is cancelled) | `Error` `ShuttingDown` with request id 0, then the end |
| the client closed, even if only its sending side | the end; what was not acknowledged may be committed all the same |
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from lanyinglog.config import Limits as NodeLimits
from lanyinglog.config import check_host, parse_address, parse_node_id
from lanyinglog.errors import BadRequest, BadTopic, Busy, ConfigError, LanyingError, NoLeader, ShuttingDown, UnknownLog
from lanyinglog.machine.producers import WINDOW
from lanyinglog.record import parse_batch
from lanyinglog.service import LogService, Ticket
from lanyinglog.session.hub import Hub
from lanyinglog.session.outbox import Outbox
from lanyinglog.session.poller import RECEIVE_BYTES, Poller
from lanyinglog.session.reader import Reader
from lanyinglog.session.subscription import CUT_OFF, Subscription
from lanyinglog.sockets import sender_of, writer_of
from lanyinglog.topics import check_filter
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import (
    Credit,
    Error,
    Hello,
    Limits,
    LogInfo,
    LogInfoReply,
    LogSet,
    MemberAdd,
    MemberRemove,
    MembersReply,
    Message,
    Newest,
    NewestReply,
    Origin,
    Ping,
    Pong,
    Publish,
    Start,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
    TopicPurge,
    Topics,
    TopicsReply,
    Transfer,
    Transferred,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    encode_acked,
    to_frame,
)

FLUSH_S_MAX = 2.0
"""How long the last replies may take to leave once the connection is ending."""
LINGER_S_MAX = 1.0
"""How long we read on after the last word: closing with unread input would reset the connection, and lose it."""
TOPICS_PAGE = 1_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who the node is, as its welcome tells."""

    node: str
    cluster: str


async def serve_session(
    stream: trio.abc.Stream,
    services: Mapping[str, LogService],
    *,
    hubs: Mapping[str, Hub],
    identity: NodeIdentity,
    limits: NodeLimits,
    poller: Poller | None = None,
) -> None:
    """Serve one client over ``stream`` until it is done; closes the stream. Raises nothing but `trio.Cancelled`.

    ``services`` are the node's logs by name, at least one; the first is the one whose leader the welcome names.
    ``hubs``, for each of them, run elsewhere, and so does ``poller``; without one, or if ``stream`` is no plain socket,
    this task waits for what the client sends by itself.
    """
    session = _Session(stream, services, hubs, identity, limits, poller)
    try:
        said_why = await session.run()
        if said_why:
            await linger(stream)
    finally:
        await trio.aclose_forcefully(stream)


async def linger(stream: trio.abc.Stream) -> None:
    """Tell the other side that no more comes and read until it closes too, for `LINGER_S_MAX` at most."""
    with trio.move_on_after(LINGER_S_MAX):
        try:
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while await stream.receive_some(RECEIVE_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # gone: what lingering waits for


class _Session:
    def __init__(
        self,
        stream: trio.abc.Stream,
        services: Mapping[str, LogService],
        hubs: Mapping[str, Hub],
        identity: NodeIdentity,
        limits: NodeLimits,
        poller: Poller | None,
    ) -> None:
        self._stream = stream
        self._services = services
        self._hubs = hubs
        self._identity = identity
        self._limits = limits
        self._inflight_max = limits.connection_inflight_batches_max
        self._wire = Connection(Role.NODE)
        self._reader = Reader(stream, self._wire, self, poller=poller, hello_s_max=limits.handshake_s_max)
        self._outbox = Outbox(replies_bytes_max=limits.connection_outbox_bytes_max, send_now=sender_of(stream))
        self._unacknowledged: deque[tuple[int, Ticket]] = deque()
        self._publish_ended = trio.lowlevel.ParkingLot()
        self._subscriptions: dict[int, Subscription] = {}
        self._turn = trio.Lock()
        self._slow_request = False
        self._work: trio.Nursery  # all tasks but the writer; open while requests are answered
        self._fault: LanyingError | None = None
        self._served = False
        self._when_settled = self._acknowledge  # one object, so that it is called once however many tickets settle
        self._answers: dict[type[Message], Callable[[int, Any], None]] = {
            Hello: self._welcome,
            Publish: self._publish,
            Subscribe: self._subscribe,
            Credit: self._credit,
            Unsubscribe: self._unsubscribe,
            Status: self._status,
            Topics: self._topics,
            Ping: self._ping,
            Transfer: self._transfer,
            Newest: self._newest,
            LogInfo: self._log_info,
            LogSet: self._log_set,
            TopicPurge: self._topic_purge,
            MemberAdd: self._member_add,
            MemberRemove: self._member_remove,
        }

    # ----------------------------------------------------------------------------------------------------- tasks
    async def run(self) -> bool:
        """Serve; True if the last frame is an error that the client should get to read."""
        async with trio.open_nursery() as nursery:
            writing = trio.CancelScope(
                shield=True
            )  # a frame that was begun is finished, if it takes FLUSH_S_MAX at most
            stopping = True  # until the client has been served: the only way out before is to be cancelled
            try:
                async with trio.open_nursery() as self._work:
                    nursery.start_soon(self._write, writing)
                    await self._guard(self._reader.run)
                    self._work.cancel_scope.cancel()
                stopping = False
            finally:
                self._served = True
                if stopping:
                    self._fault = ShuttingDown("the node is stopping")
                if self._fault is not None:
                    self._outbox.put_reply(self._wire.send(Error.of(self._fault), 0))
                self._outbox.finish()
                writing.deadline = trio.current_time() + FLUSH_S_MAX
        return self._fault is not None

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run one of the connection's tasks; what it raises ends this connection and nothing else."""
        try:
            await task()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._work.cancel_scope.cancel()
        except LanyingError as error:
            self._fail(error)
        except Exception:
            # The boundary of a connection: a defect in serving it must not take the node's other clients along.
            self._fail_by_defect()

    def _fail(self, error: LanyingError) -> None:
        if self._fault is None:
            self._fault = error
        self._work.cancel_scope.cancel()

    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                write = writer_of(self._stream)
                while (chunk := await self._outbox.take()) is not None:
                    await write(chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._work.cancel_scope.cancel()  # the client is gone

    def _acknowledge(self) -> Callable[[], None] | None:
        """Put together the answers to publishes whose tickets are settled, in order, for batches commit in order too
        (P5); gives what sends them. The log's loop calls both, no task of the connection: what goes wrong is the
        connection's fault all the same."""
        if self._served:
            return None
        try:
            unacknowledged = self._unacknowledged
            if len(unacknowledged) >= self._inflight_max:  # else nobody waits
                self._publish_ended.unpark()
            while unacknowledged and (result := unacknowledged[0][1].result) is not None:
                request, _ = unacknowledged.popleft()
                if isinstance(result, LanyingError):
                    self._outbox.queue_reply(to_frame(Error.of(result), request))
                else:
                    self._outbox.queue_reply(encode_acked(request, result))
        except Exception:
            self._fail_by_defect()
        return self._send_replies

    def _send_replies(self) -> None:
        try:
            self._outbox.send_replies()
        except Exception:
            self._fail_by_defect()

    def _fail_by_defect(self) -> None:
        _log.exception("a client connection ended by a defect")
        self._fail(LanyingError("the node failed to serve this connection; its log has the reason"))

    # -------------------------------------------------------------------------------------------------- answering
    def may_answer(self, message: Message) -> bool:
        """Whether there is room for what ``message`` brings and for its answer, and all is known that it needs."""
        if not self._outbox.has_room:
            return False
        if isinstance(message, Publish):
            service = self._services.get(message.log)
            return service is None or self._has_publish_room(service)
        return not (isinstance(message, Subscribe) and message.start.origin is Origin.TIME)

    def answer(self, request: int, message: Message) -> None:
        """Answer what may be answered."""
        try:
            self._answers[type(message)](request, message)
        except LanyingError as error:
            self._reply(Error.of(error), request)

    def answer_publish(self, request: int, batch: bytes, log: str, received: float) -> bool:
        """See `Answerer`: what a small producer says again and again, by the shortest way."""
        service = self._services.get(log)
        if service is None or not self._outbox.has_room or not self._has_publish_room(service):
            return False
        try:
            self._submit(request, batch, service, received)
        except LanyingError as error:
            self._reply(Error.of(error), request)
        return True

    def _has_publish_room(self, service: LogService) -> bool:
        return len(self._unacknowledged) < self._inflight_max and service.has_room

    async def answer_in_time(self, request: int, message: Message) -> None:
        """Wait for what ``message`` needs, then answer it."""
        await self._outbox.wait_room()
        try:
            if isinstance(message, Publish):
                await self._wait_publish_room(message)
            elif isinstance(message, Subscribe):
                message = await self._with_start_found(message)
        except LanyingError as error:
            self._reply(Error.of(error), request)
        else:
            self.answer(request, message)

    async def _wait_publish_room(self, publish: Publish) -> None:
        while len(self._unacknowledged) >= self._inflight_max:
            await self._publish_ended.park()
        await self._service(publish.log).wait_room()

    async def _with_start_found(self, subscribe: Subscribe) -> Subscribe:
        """``subscribe`` from the seq that its time stands for."""
        if subscribe.start.origin is not Origin.TIME:
            return subscribe
        seq = await self._service(subscribe.log).seq_at_time(subscribe.start.value)
        return replace(subscribe, start=Start(Origin.SEQ, seq))

    def _reply(self, message: Message, request: int) -> None:
        self._outbox.put_reply(to_frame(message, request))

    # -------------------------------------------------------------------------------------------------- requests
    def _welcome(self, request: int, hello: Hello) -> None:
        assert self._wire.version is not None
        leader_client = next(iter(self._services.values())).status()["leader_client"]
        limits = Limits(producer_window=WINDOW, subscriptions_max=self._limits.connection_subscriptions_max)
        identity = self._identity
        welcome = Welcome(self._wire.version, identity.node, identity.cluster, leader_client, limits)
        self._outbox.put_reply(self._wire.send(welcome, request))

    def _publish(self, request: int, publish: Publish) -> None:
        self._submit(request, publish.batch, self._service(publish.log), trio.current_time())

    def _submit(self, request: int, batch: bytes, service: LogService, received: float) -> None:
        ticket = service.submit(parse_batch(batch), received=received)
        self._unacknowledged.append((request, ticket))
        ticket.tell(self._when_settled)
        if ticket.result is not None:  # it was settled before anybody could be told
            self._acknowledge()
            self._send_replies()

    def _subscribe(self, request: int, subscribe: Subscribe) -> None:
        service = self._service(subscribe.log)
        self._check_subscribe(request, subscribe)
        next_seq = _next_seq(service, subscribe.start)
        last_seq = service.last_seq
        if next_seq > last_seq and service.cut_off:
            raise NoLeader(CUT_OFF)  # it has nothing for this subscriber, and does not know what is new
        subscription = Subscription(
            request=request,
            service=service,
            hub=self._hubs[subscribe.log],
            filters=subscribe.filters,
            next_seq=next_seq,
            last_seq=last_seq,
            credit_messages=subscribe.credit_messages,
            credit_bytes=subscribe.credit_bytes,
            outbox=self._outbox,
            turn=self._turn,
        )
        self._subscriptions[request] = subscription
        self._reply(Subscribed(next_seq, last_seq), request)
        self._work.start_soon(self._guard, partial(self._serve_subscription, subscription))

    def _check_subscribe(self, request: int, subscribe: Subscribe) -> None:
        if request in self._subscriptions:
            raise BadRequest(f"request id {request} is that of an open subscription")
        if len(self._subscriptions) >= self._limits.connection_subscriptions_max:
            raise Busy(f"a connection may have {self._limits.connection_subscriptions_max} subscriptions")
        if not subscribe.filters:
            raise BadTopic("a subscription has at least one filter; > is everything")
        for pattern in subscribe.filters:
            check_filter(pattern)

    async def _serve_subscription(self, subscription: Subscription) -> None:
        try:
            await subscription.run()
        finally:
            del self._subscriptions[subscription.request]

    def _credit(self, request: int, credit: Credit) -> None:
        subscription = self._subscriptions.get(request)
        if subscription is not None:  # else it ended while the credit was on its way
            subscription.give(credit.credit_messages, credit.credit_bytes)

    def _unsubscribe(self, request: int, unsubscribe: Unsubscribe) -> None:
        subscription = self._subscriptions.get(request)
        if subscription is not None:
            subscription.cancel()
        else:
            self._reply(Unsubscribed(), request)

    def _status(self, request: int, status: Status) -> None:
        self._reply(StatusReply(self._service(status.log).status()), request)

    def _topics(self, request: int, topics: Topics) -> None:
        page = self._service(topics.log).topics(after=topics.after, topics_max=TOPICS_PAGE)
        self._reply(TopicsReply(tuple(page.topics), page.more), request)

    def _ping(self, request: int, ping: Ping) -> None:
        self._reply(Pong(), request)

    def _newest(self, request: int, newest: Newest) -> None:
        service = self._service(newest.log)

        async def see_newest() -> Message:
            return NewestReply(await service.newest_seq())

        self._begin_slow(request, see_newest)

    def _log_info(self, request: int, info: LogInfo) -> None:
        self._reply(LogInfoReply(self._service(info.log).log_info()), request)

    def _log_set(self, request: int, change: LogSet) -> None:
        service = self._service(change.log)

        async def set_retention() -> Message:
            await service.set_retention(change.changes)
            return LogInfoReply(service.log_info())

        self._begin_slow(request, set_retention)

    def _topic_purge(self, request: int, purge: TopicPurge) -> None:
        service = self._service(purge.log)

        async def see_purged() -> Message:
            await service.purge(purge.filter, purge.number)
            return LogInfoReply(service.log_info())

        self._begin_slow(request, see_purged)

    def _member_add(self, request: int, add: MemberAdd) -> None:
        service = self._service(add.log)

        async def see_added() -> Message:
            await service.add_member(*_checked_member(add))
            return MembersReply(service.members())

        self._begin_slow(request, see_added)

    def _member_remove(self, request: int, remove: MemberRemove) -> None:
        service = self._service(remove.log)

        async def see_removed() -> Message:
            await service.remove_member(remove.node)
            return MembersReply(service.members())

        self._begin_slow(request, see_removed)

    def _transfer(self, request: int, transfer: Transfer) -> None:
        service = self._service(transfer.log)

        async def hand_over() -> Message:
            return Transferred(await service.transfer(transfer.node))

        self._begin_slow(request, hand_over)

    def _begin_slow(self, request: int, work: Callable[[], Awaitable[Message]]) -> None:
        """Do ``work``, which waits for other nodes, beside all else; one at a time is enough for a connection."""
        if self._slow_request:
            raise Busy("this connection's transfer of leadership or change of settings is not done yet")
        self._slow_request = True
        self._work.start_soon(self._guard, partial(self._see_through, request, work))

    async def _see_through(self, request: int, work: Callable[[], Awaitable[Message]]) -> None:
        try:
            self._reply(await work(), request)
        except LanyingError as error:
            self._reply(Error.of(error), request)
        finally:
            self._slow_request = False

    def _service(self, log: str) -> LogService:
        try:
            return self._services[log]
        except KeyError:
            raise UnknownLog(f"this node hosts no log {log!r}, but {', '.join(self._services)}") from None


def _next_seq(service: LogService, start: Start) -> int:
    """The seq with which a subscription begins: never one that retention has dropped."""
    match start.origin:
        case Origin.NEW:
            return service.last_seq + 1
        case Origin.FIRST:
            return service.first_seq
        case _:
            return max(start.value, service.first_seq)


def _checked_member(add: MemberAdd) -> tuple[str, str]:
    try:
        address = parse_address("peer", add.peer)
        check_host("peer", address)
        if address.is_wildcard or address.port == 0:
            raise ConfigError(f"peer = {address} is no address by which a node can be reached from elsewhere")
        return parse_node_id("node", add.node), str(address)
    except ConfigError as error:
        raise BadRequest(error.message) from error
