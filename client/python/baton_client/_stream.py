"""A stream of events that goes on where it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, cast

import grpc

from ._effort import Effort, Failed, Way
from ._proto.baton.v1 import inference_pb2 as pb
from ._received import Received
from ._status import CUT_SHORT, refused
from .answer import Answer, Gathering
from .errors import BatonError, Cancelled, ProtocolError
from .events import Chunk, Event, Started, event_of
from .sampling import Sampling

if TYPE_CHECKING:
    from typing_extensions import Self

Call: TypeAlias = (
    "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]"
    " | grpc.aio.UnaryStreamCall[pb.ChatRequest, pb.ChatResponse]"
)
Request: TypeAlias = pb.GenerateRequest | pb.ChatRequest


class AsyncStream:
    """The events of one request, in order: `Started`, `Chunk`s, and a `Complete` for each choice.

    If the connection or the router is lost, it goes on at any endpoint behind what came: no token
    is missing, and none comes twice. Leaving `async with`, `aclose` and cancelling the task that
    reads cancel the request.

    Raises, while it is read:
        BatonError: As its subclasses say; then the stream is over.
    """

    def __init__(self, effort: Effort, request: Request, sampling: Sampling) -> None:
        request.sampling.CopyFrom(sampling.to_wire())
        self._effort = effort
        self._request = request
        self._received = Received(sampling.choices)
        self._gathering = Gathering(sampling.choices)
        self._call: Call | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resumed = 0
        self._is_closed = False
        self._error: BatonError | None = None

    @property
    def request_id(self) -> str | None:
        """The server's latest id of the request, which `cancel` takes; None before `Started`."""
        started = self._received.started
        return None if started is None else started.request_id

    @property
    def client_request_id(self) -> str:
        """The `x-request-id` it is sent with."""
        return self._effort.asked.request_id

    @property
    def resumed(self) -> int:
        """How many times it broke off and went on."""
        return self._resumed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # gRPC keeps a call that nobody reads. The collector may run in any thread.
        call, loop = getattr(self, "_call", None), getattr(self, "_loop", None)
        if call is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call.cancel)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not (self._is_closed or self._received.is_over):
            try:
                event = await self._next_event()
                if event is not None and self._hear(event):
                    return event
            except Failed as failed:
                self._hang_up()
                await self._recover(failed)
            except BatonError as error:
                self._end(error)
                raise
            except asyncio.CancelledError:
                self._hang_up()
                if self._is_closed or self._effort.is_closed:
                    # It wasn't this task that was cancelled, but what it reads.
                    raise self._cancelled() from None
                raise
        self._hang_up()
        raise StopAsyncIteration

    async def text(self, choice: int = 0) -> AsyncIterator[str]:
        """The text of one choice, piece by piece."""
        async for event in self:
            if isinstance(event, Chunk) and event.choice == choice and event.text:
                yield event.text

    async def answer(self) -> Answer:
        """Reads to the end: the whole answer, with what was read before."""
        async for _ in self:
            pass
        if self._error is not None:
            raise self._error
        if not self._received.is_over:
            raise self._cancelled()
        return self._gathering.whole(
            request_id=self.request_id or "",
            client_request_id=self.client_request_id,
            resumed=self._resumed,
        )

    async def aclose(self) -> None:
        """Cancels the request unless it is over; whoever reads it gets `Cancelled`."""
        self._is_closed = True
        self._hang_up()

    async def _next_event(self) -> Event | None:
        if self._call is None:
            way = await self._effort.connect()
            if self._is_closed:
                raise self._cancelled()
            self._loop = asyncio.get_running_loop()
            self._call = self._open(way)
            self._effort.track(self._call)
            self._received.begin()
        try:
            # After the first token gRPC itself keeps the deadline.
            has_token = self._received.has_token
            reading = self._call.read()
            message = await (reading if has_token else self._effort.within(reading))
        except grpc.aio.AioRpcError as error:
            raise Failed(refused(error)) from error
        if message is grpc.aio.EOF:
            raise Failed(CUT_SHORT)
        return event_of(cast("pb.GenerateResponse | pb.ChatResponse", message))

    def _open(self, way: Way) -> Call:
        resume = self._received.resume()
        started = self._received.started
        if resume is not None and started is not None:
            self._request.resume.CopyFrom(resume)
            self._request.sampling.seed = started.seed
        request, timeout, metadata = self._request, way.timeout, way.metadata
        if isinstance(request, pb.GenerateRequest):
            return way.stub.Generate(request, timeout=timeout, metadata=metadata)
        return way.stub.Chat(request, timeout=timeout, metadata=metadata)

    def _hear(self, event: Event) -> bool:
        try:
            is_new = self._received.hear(event)
        except ProtocolError as error:
            error.request_id = self.client_request_id
            raise
        if isinstance(event, Started):
            self._effort.works()
            self._resumed += not is_new
        elif isinstance(event, Chunk):
            self._effort.progress()
        if is_new:
            self._gathering.add(event)
        return is_new

    async def _recover(self, failed: Failed) -> None:
        if self._is_closed:
            raise self._cancelled() from None
        try:
            await self._effort.recover(failed.refused)
        except BatonError as error:
            self._end(error)
            raise error from failed.__cause__

    def _end(self, error: BatonError) -> None:
        self._error = error
        self._is_closed = True
        self._hang_up()

    def _cancelled(self) -> BatonError:
        return Cancelled("the stream was closed", request_id=self.client_request_id)

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
