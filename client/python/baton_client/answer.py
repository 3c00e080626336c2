"""A whole answer, gathered from its stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from .events import (
    Chunk,
    Complete,
    Event,
    FinishReason,
    Started,
    Timings,
    TokenLogprobs,
    ToolCallPiece,
    Usage,
)
from .messages import Message, ToolCall


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a request."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...]
    #: One for each token, if they were asked for.
    logprobs: tuple[TokenLogprobs, ...]
    #: Digests of the raw logits each token was drawn from.
    logits_digests: tuple[int, ...]
    usage: Usage
    timings: Timings

    def message(self) -> Message:
        """What to put into the conversation before it goes on."""
        return Message.assistant(self.text, self.tool_calls)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    choices: tuple[Choice, ...]
    model: str
    #: The same seed gives the same answer.
    seed: int
    #: The server's latest id of the request.
    request_id: str
    #: The `x-request-id` it was sent with, as the cluster's logs have it.
    client_request_id: str
    #: Of the prompt's tokens but the first, if they were asked for.
    prompt_logprobs: tuple[TokenLogprobs, ...]
    #: How many times the stream broke off and went on, mostly elsewhere.
    resumed: int

    @property
    def text(self) -> str:
        """The first choice's."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first choice's."""
        return self.choices[0].token_ids

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first choice's."""
        return self.choices[0].tool_calls

    @property
    def finish_reason(self) -> FinishReason:
        """The first choice's."""
        return self.choices[0].finish_reason

    @property
    def timings(self) -> Timings:
        """The first choice's."""
        return self.choices[0].timings

    @property
    def usage(self) -> Usage:
        """Of all choices; the prompt counts once."""
        return Usage(
            prompt_tokens=self.choices[0].usage.prompt_tokens,
            completion_tokens=sum(choice.usage.completion_tokens for choice in self.choices),
            cached_tokens=self.choices[0].usage.cached_tokens,
        )


@dataclass(slots=True)
class _Calls:
    """Calls of tools whose pieces still come."""

    calls: dict[int, tuple[str, str, list[str]]] = field(default_factory=dict)

    def add(self, piece: ToolCallPiece) -> None:
        _, _, arguments = self.calls.setdefault(piece.index, (piece.id, piece.name, []))
        arguments.append(piece.arguments)

    def whole(self) -> tuple[ToolCall, ...]:
        ordered = (self.calls[index] for index in sorted(self.calls))
        return tuple(ToolCall(id, name, "".join(pieces)) for id, name, pieces in ordered)


@dataclass(slots=True)
class _Part:
    """What came of one choice."""

    chunks: list[Chunk] = field(default_factory=list)
    calls: _Calls = field(default_factory=_Calls)
    end: Complete | None = None

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        for piece in chunk.tool_calls:
            self.calls.add(piece)

    def whole(self, index: int) -> Choice:
        if self.end is None:
            raise ValueError(f"choice {index} isn't complete")
        return Choice(
            index=index,
            text="".join(chunk.text for chunk in self.chunks),
            token_ids=tuple(token for chunk in self.chunks for token in chunk.token_ids),
            finish_reason=self.end.finish_reason,
            tool_calls=self.calls.whole(),
            logprobs=tuple(each for chunk in self.chunks for each in chunk.logprobs),
            logits_digests=tuple(each for chunk in self.chunks for each in chunk.logits_digests),
            usage=self.end.usage,
            timings=self.end.timings,
        )


class Gathering:
    """An answer while its events come."""

    def __init__(self, choices: int) -> None:
        self._parts = [_Part() for _ in range(choices)]
        self._started: Started | None = None

    def add(self, event: Event) -> None:
        """Takes the next event of a checked stream."""
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, Chunk):
            self._parts[event.choice].add(event)
        else:
            self._parts[event.choice].end = event

    def whole(self, *, request_id: str, client_request_id: str, resumed: int) -> Answer:
        """The answer, when the stream is over."""
        if self._started is None:
            raise ValueError("the stream hasn't started")
        chunks = (chunk for part in self._parts for chunk in part.chunks)
        return Answer(
            choices=tuple(part.whole(index) for index, part in enumerate(self._parts)),
            model=self._started.model,
            seed=self._started.seed,
            request_id=request_id,
            client_request_id=client_request_id,
            prompt_logprobs=tuple(each for chunk in chunks for each in chunk.prompt_logprobs),
            resumed=resumed,
        )
