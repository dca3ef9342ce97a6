"""How a connection ends: by the client's fault, its slowness, its leaving, the node's stopping, or a defect; and that
no other connection notices."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from memory_service import MemoryLogService
from session.dialogue import FIRST, PLENTY, Client, batch, fill, house
from wire.fuzz import Fuzzer

from lanyinglog import config
from lanyinglog.session.connection import FLUSH_S_MAX, LINGER_S_MAX
from lanyinglog.session.outbox import Outbox
from lanyinglog.session.reader import FRAME_S_MAX
from lanyinglog.wire.messages import (
    CLIENT_MESSAGES,
    Acked,
    Error,
    Hello,
    Ping,
    Pong,
    Publish,
    Status,
    Subscribe,
    to_frame,
)

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("streams")]
HANDSHAKE_S = config.Limits().handshake_s_max


async def ends_with(client: Client, code: str) -> Error:
    """The connection's last word, and then its end."""
    while not isinstance((received := await client.receive()).message, Error):
        pass
    error = received.message
    assert isinstance(error, Error)
    assert (received.request, error.code) == (0, code)
    await client.expect_end()
    return error


# ---------------------------------------------------------------------------------------------------- a client's fault
PING = to_frame(Ping(), 5)
GARBAGE = {
    "ones": (b"\xff" * 64, "frame_too_large"),
    "zeros": (bytes(64), "protocol"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "frame_too_large"),
    "a reply": (to_frame(Pong(), 5), "protocol"),
    "a flipped bit": (PING[:-1] + b"\x81", "protocol"),
    "a frame that is too large": (b"\xff\xff\xff\x7f", "frame_too_large"),
    "a frame too short for its head": (b"\x0b\0\0\0", "protocol"),
    "an unknown kind": (PING[:4] + b"\x3f" + PING[5:], "protocol"),
}


@pytest.mark.parametrize(
    "case", [*GARBAGE.values(), (to_frame(Hello(), 0), "protocol")], ids=[*GARBAGE, "a second hello"]
)
async def test_garbage_ends_its_connection_with_a_word_and_no_other(case: tuple[bytes, str]) -> None:
    garbage, code = case
    async with house() as at:
        good, bad = await at.client(), await at.client()
        await bad.stream.send_all(to_frame(Ping(), 4) + garbage + to_frame(Ping(), 6))
        await bad.expect(Pong, 4)
        await ends_with(bad, code)
        assert await good.is_served()


@pytest.mark.parametrize("case", GARBAGE.values(), ids=GARBAGE)
async def test_a_stranger_that_does_not_speak_the_protocol_is_told_so(case: tuple[bytes, str]) -> None:
    async with house() as at:
        stranger = at.stranger()
        await stranger.stream.send_all(case[0])
        await ends_with(stranger, "protocol")


async def test_what_was_asked_before_the_fault_is_answered() -> None:
    async with house() as at:
        client = await at.client()
        asked = b"".join(to_frame(Ping(), request) for request in range(1, 51))
        await client.stream.send_all(asked + b"\xff" * 16)
        for request in range(1, 51):
            await client.expect(Pong, request)
        await ends_with(client, "frame_too_large")


async def test_frames_that_are_almost_right_reach_nobody_else() -> None:
    service = MemoryLogService()
    fuzzer = Fuzzer(3, CLIENT_MESSAGES)
    async with house(service) as at:
        good = await at.client()
        reader = await good.subscribe()
        for place, stream in enumerate(fuzzer.streams(600), start=1):
            bad = await at.client()
            for piece in fuzzer.pieces(stream):
                await bad.stream.send_all(piece)
            await bad.stream.send_all(to_frame(Ping(), 1)[:7])  # what waits for more waits for ever
            if place % 50 == 0:
                await trio.testing.wait_all_tasks_blocked()
                fill(service, [batch(place // 50, producer=2)])
            await trio.aclose_forcefully(bad.stream)
        await at.wait_ended(600)
        assert len(await reader.until(service.last_seq)) >= 12
        assert await good.is_served()


# -------------------------------------------------------------------------------------------------------- slow clients
async def test_who_says_nothing_is_ended_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as at:
        began = trio.current_time()
        stranger = at.stranger()
        with trio.fail_after(2 * HANDSHAKE_S):
            assert b"protocol" in await stranger.stream.receive_some()
        assert trio.current_time() - began == pytest.approx(HANDSHAKE_S)


async def test_a_hello_that_trickles_is_ended_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as at, trio.open_nursery() as nursery:
        began = trio.current_time()
        stranger = at.stranger()

        async def trickle() -> None:
            for byte in to_frame(Hello(client="x" * 200), 0):
                await stranger.stream.send_all(bytes([byte]))
                await trio.sleep(HANDSHAKE_S / 20)

        nursery.start_soon(trickle)
        with trio.fail_after(2 * HANDSHAKE_S):
            assert b"protocol" in await stranger.stream.receive_some()
        assert trio.current_time() - began == pytest.approx(HANDSHAKE_S)
        nursery.cancel_scope.cancel()


async def test_a_frame_that_trickles_is_ended_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as at, trio.open_nursery() as nursery:
        client, other = await at.client(), await at.client()
        await trio.sleep(100)
        began = trio.current_time()

        async def trickle() -> None:
            for byte in to_frame(Publish(batch(1, size=1_000)), 1):
                await client.stream.send_all(bytes([byte]))
                await trio.sleep(FRAME_S_MAX / 20)

        nursery.start_soon(trickle)
        with trio.fail_after(2 * FRAME_S_MAX):
            assert b"protocol" in await client.stream.receive_some()
        assert trio.current_time() - began == pytest.approx(FRAME_S_MAX)
        assert await other.is_served()
        nursery.cancel_scope.cancel()


async def test_many_frames_that_are_never_quite_done_are_fine(autojump_clock: trio.testing.MockClock) -> None:
    """Each frame has its own time: a client that always has one on its way is not slow."""
    async with house() as at:
        client = await at.client()
        ping = to_frame(Ping(), 1)
        for _ in range(20):
            await client.stream.send_all(ping[:5])
            await trio.sleep(FRAME_S_MAX * 0.9)
            await client.stream.send_all(ping[5:] + ping[:5])
            await trio.sleep(FRAME_S_MAX * 0.9)
            await client.stream.send_all(ping[5:])
        for _ in range(40):
            await client.expect(Pong, 1)


async def test_an_idle_connection_may_be_idle_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as at:
        client = await at.client()
        for _ in range(3):
            await trio.sleep(24 * 3_600)
            assert await client.is_served()


# --------------------------------------------------------------------------------------------------- clients that leave
async def test_a_client_that_leaves_takes_its_subscriptions_along() -> None:
    service = MemoryLogService()
    async with house(service) as at:
        client = await at.client()
        for request in (1, 2, 3):
            await client.subscribe(request=request)
        await client.stream.aclose()
        await at.wait_ended()
        reads = service.read_calls
        fill(service, [batch(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert service.read_calls == reads


async def test_a_client_that_leaves_while_its_batches_wait_does_not_undo_them() -> None:
    service = MemoryLogService()
    service.held = True
    async with house(service) as at:
        client = await at.client()
        for number in (1, 2):
            await client.send(Publish(batch(number)), number)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(client.stream)
        await at.wait_ended()
        service.release()
        assert service.last_seq == 2


@pytest.mark.parametrize("lockstep", [False, True])
async def test_a_client_that_vanishes_in_the_middle_of_a_push_ends_quietly(lockstep: bool) -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=100_000) for number in range(1, 20)])
    async with house(service) as at:
        client = await at.client(lockstep=lockstep)
        await client.send(Subscribe((">",), FIRST, PLENTY, PLENTY), 1)
        await client.stream.receive_some(1_000)
        await trio.aclose_forcefully(client.stream)
        await at.wait_ended()


# ------------------------------------------------------------------------------------------------------- the node stops
async def test_a_node_that_stops_says_so_behind_its_last_replies() -> None:
    async with house() as at:
        scope = trio.CancelScope()
        client = await at.client(scope=scope)
        await client.subscribe()
        await client.publish(batch(1), 5, Acked)
        scope.cancel()
        await ends_with(client, "shutting_down")


async def test_a_node_that_stops_waits_for_nobody_for_long(autojump_clock: trio.testing.MockClock) -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=100_000) for number in range(1, 20)])
    async with house(service) as at:
        scope = trio.CancelScope()
        client = await at.client(lockstep=True, scope=scope)
        await client.send(Subscribe((">",), FIRST, PLENTY, PLENTY), 1)
        await trio.testing.wait_all_tasks_blocked()  # it takes nothing from now on
        began = trio.current_time()
        scope.cancel()
        await at.wait_ended()
        assert trio.current_time() - began <= FLUSH_S_MAX + LINGER_S_MAX + 0.1


async def test_who_does_not_go_after_the_last_word_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with house() as at:
        client = await at.client()
        began = trio.current_time()
        await client.stream.send_all(b"\xff" * 16)
        await at.wait_ended()
        assert LINGER_S_MAX <= trio.current_time() - began <= FLUSH_S_MAX + LINGER_S_MAX + 0.1


# ------------------------------------------------------------------------------------------------------------ a defect
class Defective(MemoryLogService):
    """Its status raises what no one planned."""

    broken = False

    def status(self) -> dict[str, object]:
        if self.broken:
            raise ZeroDivisionError("a defect")
        return super().status()


async def test_a_defect_ends_its_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = Defective()
    async with house(service) as at:
        unlucky, other = await at.client(), await at.client()
        service.broken = True
        with caplog.at_level(logging.ERROR):
            await unlucky.send(Status(), 5)
            error = await ends_with(unlucky, "internal")
        assert "ZeroDivisionError" in caplog.text
        assert "ZeroDivisionError" not in error.message
        assert error.outcome == "unknown"
        assert await other.is_served()


@pytest.mark.parametrize("step", ["queue_reply", "send_replies"])
async def test_a_defect_in_acknowledging_costs_no_other_his_acknowledgement(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It comes up in the log's loop, which has others to tell."""
    service = MemoryLogService()
    service.held = True
    async with house(service) as at:
        unlucky, other = await at.client(), await at.client()
        await unlucky.send(Publish(batch(1)), 5)
        await trio.testing.wait_all_tasks_blocked()
        await other.send(Publish(batch(1, producer=2)), 6)
        await trio.testing.wait_all_tasks_blocked()
        whole = getattr(Outbox, step)

        def breaks_once(*arguments: object) -> None:
            monkeypatch.setattr(Outbox, step, whole)
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(Outbox, step, breaks_once)
        service.release()
        assert isinstance((await other.receive()).message, Acked)
        await ends_with(unlucky, "internal")
        assert await other.is_served()
