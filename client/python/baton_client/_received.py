"""What a client has of a stream: pure, so that every way to break is tested without a network.

Why may a stream go on behind any message? An answer is a function of its prompt, its seed and its
sampling, and goes on from any of its tokens. The seed is known from the first `Started`, and the
tokens are here; so nobody else needs to have kept anything.
"""

from __future__ import annotations

from ._proto.baton.v1 import inference_pb2 as pb
from .errors import ProtocolError
from .events import Chunk, Complete, Event, Started


class Received:
    """The tokens of each choice, and what may come next."""

    def __init__(self, choices: int) -> None:
        self._tokens: list[list[int]] = [[] for _ in range(choices)]
        self._is_complete = [False] * choices
        self._first: Started | None = None
        self._latest: Started | None = None
        self._is_told = False

    @property
    def started(self) -> Started | None:
        """The latest one."""
        return self._latest

    @property
    def has_token(self) -> bool:
        """Whether any came."""
        return any(self._tokens)

    @property
    def is_over(self) -> bool:
        """Whether each choice is complete."""
        return all(self._is_complete)

    def begin(self) -> None:
        """A new connection: its first message is to be a `Started`."""
        self._is_told = False

    def resume(self) -> pb.Resume | None:
        """How to ask for the rest; None while nothing came, so that all is asked for."""
        if self._latest is None:
            return None
        pairs = zip(self._tokens, self._is_complete, strict=True)
        received = [pb.Received(token_ids=tokens, complete=over) for tokens, over in pairs]
        return pb.Resume(request_id=self._latest.request_id, received=received)

    def hear(self, event: Event) -> bool:
        """Takes an event in; whether it is news to the caller.

        Raises:
            ProtocolError: It doesn't go on where the stream was.
        """
        if isinstance(event, Started):
            return self._start(event)
        if not self._is_told:
            raise ProtocolError("the stream doesn't begin with Started")
        if event.choice >= len(self._tokens):
            raise ProtocolError(f"choice {event.choice} of {len(self._tokens)} that were asked for")
        if self._is_complete[event.choice]:
            raise ProtocolError(f"choice {event.choice} goes on behind its end")
        if isinstance(event, Complete):
            self._is_complete[event.choice] = True
        else:
            self._append(event)
        return True

    def _start(self, started: Started) -> bool:
        if self._is_told:
            raise ProtocolError("the stream has Started twice")
        first, self._is_told = self._first, True
        self._first, self._latest = first or started, started
        if first is None:
            return True
        same = ("model", "seed", "prompt_tokens")
        for field in same:
            was, now = getattr(first, field), getattr(started, field)
            if was != now:
                raise ProtocolError(
                    f"the stream began with {field} {was!r} and goes on with {now!r}"
                )
        return False

    def _append(self, chunk: Chunk) -> None:
        tokens = self._tokens[chunk.choice]
        if chunk.index != len(tokens):
            kind = "a gap" if chunk.index > len(tokens) else "a repeat"
            at = f"token {chunk.index} of choice {chunk.choice} comes at {len(tokens)}"
            raise ProtocolError(f"the stream has {kind}: {at}")
        for name in ("logits_digests", "logprobs"):
            count = len(getattr(chunk, name))
            if count not in (0, len(chunk.token_ids)):
                raise ProtocolError(f"{len(chunk.token_ids)} tokens come with {count} {name}")
        tokens.extend(chunk.token_ids)
