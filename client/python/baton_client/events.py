"""What a stream says, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TypeAlias

from ._proto.baton.v1 import inference_pb2 as pb


class FinishReason(str, Enum):
    """Why an answer ended."""

    #: By itself, or with what was to stop it.
    STOP = "stop"
    #: It had `max_tokens`, or the context was full.
    LENGTH = "length"
    #: After calls of tools.
    TOOL_CALLS = "tool_calls"
    #: As a server says it that is newer than this client.
    OTHER = "other"


_FINISH_REASONS = {
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
}


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens at a place."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """By the model's own distribution: before bias, penalties, temperature and cuts."""

    #: Natural logarithm.
    logprob: float
    #: The likeliest first.
    top: tuple[TopLogprob, ...]


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A piece of a call: the first one has `id` and `name`, `arguments` go on where they ended."""

    #: Of the call in its answer.
    index: int
    id: str
    name: str
    #: Of a JSON object, as JSON.
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens."""

    prompt_tokens: int
    completion_tokens: int
    #: Prompt tokens whose keys and values were already cached.
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, by the router that ended the answer, since the stream last went on."""

    prefill_node: str
    decode_node: str
    router_queue: timedelta
    prefill_queue: timedelta
    prefill: timedelta
    #: Pages still on their way after the first token was sampled.
    exposed_transfer: timedelta
    decode_admission: timedelta
    first_decode_step: timedelta
    #: From the request's arrival to its first token's departure, at the router.
    ttft: timedelta
    #: Mean time between tokens after the first; 0 for one token.
    tpot: timedelta
    pages_moved: int
    bytes_moved: int
    #: How often it changed nodes while it was decoded.
    migrations: int


@dataclass(frozen=True, slots=True)
class Started:
    """The first event of a stream."""

    #: The server's id of the request, which `cancel` takes. It changes when a stream goes on
    #: elsewhere; the stream knows the latest.
    request_id: str
    model: str
    #: What the answer is drawn with: the same seed gives the same answer.
    seed: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of an answer, and the text that became certain with them."""

    #: Which answer it belongs to, from 0.
    choice: int
    #: Of the first of `token_ids` in the answer. Indexes have no gaps and no repeats.
    index: int
    token_ids: tuple[int, ...]
    #: May lag behind the tokens by half a character or by the beginning of a stop string.
    text: str
    #: Digests of the raw logits each token was drawn from.
    logits_digests: tuple[int, ...] = ()
    #: One for each token, if they were asked for.
    logprobs: tuple[TokenLogprobs, ...] = ()
    #: Pieces of calls of tools, which `text` doesn't have.
    tool_calls: tuple[ToolCallPiece, ...] = ()
    #: In the first answer's first chunk, if they were asked for: of the prompt's tokens but the
    #: first.
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Complete:
    """The end of one answer; the stream ends with the last one's."""

    choice: int
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event: TypeAlias = Started | Chunk | Complete


def event_of(message: pb.GenerateResponse | pb.ChatResponse) -> Event | None:
    """What a message says; None if it is of a kind this client doesn't know."""
    kind = message.WhichOneof("event")
    if kind == "chunk":
        return _chunk(message.chunk)
    if kind == "started":
        wire = message.started
        return Started(wire.request_id, wire.model, wire.seed, wire.prompt_tokens)
    return _complete(message.complete) if kind == "complete" else None


def _chunk(wire: pb.Chunk) -> Chunk:
    return Chunk(
        choice=wire.choice,
        index=wire.index,
        token_ids=tuple(wire.token_ids),
        text=wire.text,
        logits_digests=tuple(wire.logits_digests),
        logprobs=tuple(map(_logprobs, wire.logprobs)),
        tool_calls=tuple(
            ToolCallPiece(call.index, call.id, call.name, call.arguments)
            for call in wire.tool_calls
        ),
        prompt_logprobs=tuple(map(_logprobs, wire.prompt_logprobs)),
    )


def _logprobs(wire: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(
        wire.logprob, tuple(TopLogprob(top.token_id, top.logprob) for top in wire.top)
    )


def _complete(wire: pb.Complete) -> Complete:
    usage = wire.usage
    return Complete(
        choice=wire.choice,
        finish_reason=_FINISH_REASONS.get(wire.finish_reason, FinishReason.OTHER),
        usage=Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        timings=_timings(wire.timings),
    )


def _timings(wire: pb.Timings) -> Timings:
    def time(microseconds: int) -> timedelta:
        return timedelta(microseconds=microseconds)

    return Timings(
        prefill_node=wire.prefill_node,
        decode_node=wire.decode_node,
        router_queue=time(wire.router_queue_us),
        prefill_queue=time(wire.prefill_queue_us),
        prefill=time(wire.prefill_us),
        exposed_transfer=time(wire.exposed_transfer_us),
        decode_admission=time(wire.decode_admission_us),
        first_decode_step=time(wire.first_decode_step_us),
        ttft=time(wire.ttft_us),
        tpot=time(wire.tpot_us),
        pages_moved=wire.pages_moved,
        bytes_moved=wire.bytes_moved,
        migrations=wire.migrations,
    )
