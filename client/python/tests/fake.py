"""A router that does what a test says: breaks, refuses, hangs and lies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from baton_client._proto.baton.v1 import inference_pb2 as pb
from baton_client._proto.baton.v1 import inference_pb2_grpc as rpc

#: As many tokens as an answer has.
LENGTH = 6
SEED = 77

Context = Any
Events = list[pb.GenerateResponse]


@dataclass
class Refuse:
    """A status, with Baton's details if it has a reason."""

    code: StatusCode
    reason: str = ""
    retry_after: timedelta | None = None
    field: str | None = None
    #: So many messages come before it.
    after: int = 0


@dataclass
class End:
    """The stream ends well, but after so many messages."""

    after: int


@dataclass
class Hang:
    """Nothing comes after so many messages, until the client hangs up."""

    after: int = 0


@dataclass
class Change:
    """What is said instead of the truth."""

    events: Callable[[Events], Events]


Act = Refuse | End | Hang | Change | None


@dataclass
class Seen:
    """A call that came."""

    request: Any
    metadata: dict[str, str]
    time_remaining: float | None


@dataclass
class Router(rpc.InferenceServicer):
    """Acts in order, and honestly when there is nothing more to act."""

    name: str = "fake"
    acts: deque[Act] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""
    #: What it answers probes: a message of `grpc.health.v1`, as bytes.
    health: bytes = b"\x08\x01"
    probes: list[bytes] = field(default_factory=list)
    probed: asyncio.Event = field(default_factory=asyncio.Event)

    async def Generate(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for event in self._stream(request, context):
            yield pb.GenerateResponse.FromString(event.SerializeToString())

    async def Chat(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for event in self._stream(request, context):
            yield pb.ChatResponse.FromString(event.SerializeToString())

    async def ListModels(self, request: Any, context: Context) -> Any:
        await self._act(request, context)
        return pb.ListModelsResponse(models=[pb.Model(id=self.name)])

    async def Tokenize(self, request: Any, context: Context) -> Any:
        await self._act(request, context)
        return pb.TokenizeResponse(token_ids=list(request.text.encode()), max_context=9)

    async def Detokenize(self, request: Any, context: Context) -> Any:
        await self._act(request, context)
        return pb.DetokenizeResponse(text=bytes(request.token_ids).decode())

    async def Cancel(self, request: Any, context: Context) -> Any:
        await self._act(request, context)
        return pb.CancelResponse(cancelled=request.request_id == self.name)

    async def check(self, request: bytes, _: Context) -> bytes:
        """`grpc.health.v1.Health/Check`."""
        self.probes.append(request)
        self.probed.set()
        return self.health

    def _see(self, request: Any, context: Context) -> Act:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.seen.append(Seen(request, metadata, context.time_remaining()))
        self.called.set()
        return self.acts.popleft() if self.acts else None

    @contextmanager
    def _until_hung_up(self) -> Iterator[None]:
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.hung_up.set()
            raise

    async def _act(self, request: Any, context: Context) -> None:
        act = self._see(request, context)
        with self._until_hung_up():
            if isinstance(act, Refuse):
                await refuse(context, act)
            if isinstance(act, Hang):
                await asyncio.Event().wait()

    async def _stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        act = self._see(request, context)
        events = list(answer(request, f"{self.name}-{len(self.seen)}"))
        if isinstance(act, Change):
            events = act.events(events)
        count = act.after if isinstance(act, Refuse | End | Hang) else len(events)
        with self._until_hung_up():
            for event in events[:count]:
                yield event
            if isinstance(act, Refuse):
                await refuse(context, act)
            if isinstance(act, Hang):
                await asyncio.Event().wait()


async def refuse(context: Context, act: Refuse) -> None:
    """Ends the call with a status, its details as Baton's."""
    status = status_pb2.Status(code=act.code.value[0], message=f"refused: {act.code.name}")
    details: list[Any] = []
    if act.reason:
        details.append(error_details_pb2.ErrorInfo(reason=act.reason, domain="baton"))
    if act.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(act.retry_after)
        details.append(retry)
    if act.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=act.field)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
    await context.abort(act.code, status.message, metadata)


def answer(request: Any, request_id: str) -> Iterator[pb.GenerateResponse]:
    """All that such a request gets, or what is left of it."""
    sampling = request.sampling
    seed = sampling.seed if sampling.HasField("seed") else SEED
    choices = max(1, sampling.n)
    had = [pb.Received() for _ in range(choices)]
    if request.HasField("resume"):
        assert sampling.HasField("seed"), "a stream goes on with its seed"
        assert len(request.resume.received) <= choices
        had[: len(request.resume.received)] = request.resume.received
    started = pb.Started(request_id=request_id, model=request.model, seed=seed, prompt_tokens=4)
    yield pb.GenerateResponse(started=started)
    for index in range(LENGTH):
        for choice in range(choices):
            token = token_at(seed, choice, index)
            if index < len(had[choice].token_ids):
                assert had[choice].token_ids[index] == token, "the client has the wrong token"
                continue
            yield pb.GenerateResponse(chunk=_chunk(choice, index, token))
    for choice in range(choices):
        if not had[choice].complete:
            yield pb.GenerateResponse(complete=_complete(choice))


def token_at(seed: int, choice: int, index: int) -> int:
    return (seed * 31 + choice * 7 + index) % 1000


def _chunk(choice: int, index: int, token: int) -> pb.Chunk:
    piece = pb.ToolCall(index=0, arguments=str(index))
    if index == 0:
        piece = pb.ToolCall(index=0, id=f"call-{choice}", name="count", arguments="0")
    return pb.Chunk(
        choice=choice,
        index=index,
        token_ids=[token],
        text=f"{token} ",
        logits_digests=[token * 2**40],
        tool_calls=[piece],
    )


def _complete(choice: int) -> pb.Complete:
    usage = pb.Usage(prompt_tokens=4, completion_tokens=LENGTH, cached_tokens=1)
    return pb.Complete(
        choice=choice,
        finish_reason=pb.FINISH_REASON_LENGTH,
        usage=usage,
        timings=pb.Timings(ttft_us=1500, decode_node="decode-1"),
    )
