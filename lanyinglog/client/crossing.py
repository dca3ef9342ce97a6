"""Calls from any thread into an event loop in a thread of its own, such that Ctrl-C may come at any moment.

A `KeyboardInterrupt` is raised between two bytecodes of the calling thread, wherever it is. What it interrupts here
are primitives written in C, which hold or they don't: the loop's own "call soon", which is made for signal handlers,
and ``SimpleQueue.get``. A ``concurrent.futures.Future`` would not do: its condition is Python code, and an interrupt at
the wrong place leaves it locked, with the event loop waiting for it for ever.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.from_thread import start_blocking_portal

from lanyinglog.errors import NotSent, Unavailable

T = TypeVar("T")


class Loop:
    """The event loop in its thread. Python waits for it at its end: see `_close_all`."""

    def __init__(self, backend: str) -> None:
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal(backend, name="lanyinglog-client"))
        self._soon: Callable[..., object] = self._portal.call(_call_soon)
        self._errands: deque[Callable[[], None]] = deque()  # what came over and was not done yet
        self._errand_came: anyio.Event
        # Left in reverse: first what is entered from here on, then all calls, then the thread is waited for.
        self._tasks: TaskGroup = self.enter(self._working())
        self._calls: set[_Call[Any]] = set()  # what callers wait for
        self._open = True  # for callers
        self._ended = False  # in the loop: no call begins any more
        _open_loops.add(self)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run ``function`` in the loop and wait for it; interrupted, it is cancelled there."""
        if not self._open:
            raise NotSent("the client is closed")
        call = _Call(function, args)
        try:
            self._calls.add(call)
            self._soon(self._bring, partial(self._begin, call))
            error, value = call.outcome.get()
        except RuntimeError as failure:  # the loop has ended since we looked
            raise NotSent("the client is closed") from failure
        except BaseException:
            self._cancel(call)
            raise
        finally:
            self._calls.discard(call)
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # without an error there is one

    def make(self, function: Callable[[], T]) -> T:
        """Like `call`, for a ``function`` that waits for nothing but has to be called in the loop."""

        async def called() -> T:
            return function()

        return self.call(called)

    def start(self, function: Callable[[], None]) -> None:
        """Run ``function``, which must not raise, in the loop, soon."""
        if self._open:
            try:
                self._soon(function)
            except RuntimeError:
                return  # the loop has ended since we looked, and with it whoever was to be told

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter ``manager`` in the loop; `close` leaves it."""
        return self._stack.enter_context(self._portal.wrap_async_context_manager(manager))

    def close(self) -> None:
        """Leave what was entered, cancel all calls, end the thread."""
        if self._open:
            self._open = False
            _open_loops.discard(self)
            try:
                self._stack.close()
            finally:
                for call in list(self._calls):  # what came when the loop did nothing any more, and was not closed yet
                    call.outcome.put((NotSent("the client is closed"), None))

    def _cancel(self, call: _Call[Any]) -> None:
        try:
            self._soon(self._bring, call.cancel)
        except RuntimeError:
            return  # the loop has ended, and all calls with it

    # --------------------------------------------------------------------------------------------- in the loop
    @asynccontextmanager
    async def _working(self) -> AsyncIterator[TaskGroup]:
        self._errand_came = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run_errands)
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()

    def _bring(self, errand: Callable[[], None]) -> None:
        """Called by the loop itself, between its tasks: have a task do ``errand``, for only a task may start others.
        Once that task has ended nothing is started any more, so that ``errand`` is done here."""
        self._errands.append(errand)
        if self._ended:
            self._do_errands()
        else:
            self._errand_came.set()

    async def _run_errands(self) -> None:
        try:
            while True:
                await self._errand_came.wait()
                self._errand_came = anyio.Event()
                self._do_errands()
        finally:
            self._ended = True
            self._do_errands()

    def _do_errands(self) -> None:
        while self._errands:
            self._errands.popleft()()

    def _begin(self, call: _Call[Any]) -> None:
        if self._ended:
            call.outcome.put((NotSent("the client is closed"), None))
        else:
            self._tasks.start_soon(call.run)


class _Call(Generic[T]):
    """One call on its way through the loop. Its outcome is put once: ``(error or None, value)``."""

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self.outcome: SimpleQueue[tuple[BaseException | None, T | None]] = SimpleQueue()

    def cancel(self) -> None:
        """Whoever called does not wait any more."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """The call itself; what it raises goes to the caller."""
        outcome: tuple[BaseException | None, T | None] = (Unavailable("the client was closed"), None)
        try:
            with anyio.CancelScope() as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                outcome = (None, await self._function(*self._args))
        except Exception as error:
            outcome = (error, None)
        finally:
            self.outcome.put(outcome)


async def _call_soon() -> Callable[..., object]:
    """What the running loop has for "call this soon", for any thread and for signal handlers."""
    native: Any = anyio.lowlevel.current_token().native_token
    soon: Callable[..., object] = getattr(native, "run_sync_soon", None) or native.call_soon_threadsafe
    return soon


_open_loops: WeakSet[Loop] = WeakSet()


@atexit.register
def _close_all() -> None:
    """A client that nobody closed would keep Python from ending: its thread waits for work for ever."""
    for loop in list(_open_loops):
        loop.close()
