"""The client for programs without an event loop.

It runs the asynchronous client in one thread for all of a process's clients. What makes a stream go
on is then written and tested once; and limits of time, which the synchronous API of gRPC doesn't
have on single reads, are the same. What it costs is a hop between threads for each event.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from . import _loop
from ._channel import Patience
from ._stream import AsyncStream
from .aio import AsyncClient, Model, Tokens
from .answer import Answer
from .events import Chunk, Event
from .messages import Message, Tool, ToolChoice
from .options import Duration
from .retry import RetryPolicy
from .sampling import Sampling
from .security import TlsConfig, Token

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .options import RequestOptions


class Stream:
    """The events of one request, in order: `Started`, `Chunk`s, and a `Complete` for each choice.

    It goes on where it broke as `AsyncStream` does. Leaving `with`, `close` and dropping the last
    reference cancel the request; another thread may close it.
    """

    def __init__(self, stream: AsyncStream, loop: _loop.LoopThread) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def request_id(self) -> str | None:
        """The server's latest id of the request, which `cancel` takes; None before `Started`."""
        return self._stream.request_id

    @property
    def client_request_id(self) -> str:
        """The `x-request-id` it is sent with."""
        return self._stream.client_request_id

    @property
    def resumed(self) -> int:
        """How many times it broke off and went on."""
        return self._stream.resumed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._loop.run(self._next())
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> Event | None:
        # A StopAsyncIteration can't leave a future.
        return await anext(self._stream, None)

    def text(self, choice: int = 0) -> Iterator[str]:
        """The text of one choice, piece by piece."""
        for event in self:
            if isinstance(event, Chunk) and event.choice == choice and event.text:
                yield event.text

    def answer(self) -> Answer:
        """Reads to the end: the whole answer, with what was read before."""
        return self._loop.run(self._stream.answer())

    def close(self) -> None:
        """Cancels the request unless it is over."""
        self._loop.run(self._stream.aclose())


class Client:
    """A cluster, through any of its routers; as `AsyncClient`, whose arguments it takes.

    Several threads may use one.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        tls: TlsConfig | None = None,
        token: Token | None = None,
        insecure: bool = False,
        retries: RetryPolicy | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._client = AsyncClient(
            endpoints,
            tls=tls,
            token=token,
            insecure=insecure,
            retries=retries,
            patience=patience,
        )
        self._loop = _loop.shared()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; whatever still runs is cancelled."""
        self._loop.run(self._client.close())

    def stream(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Stream:
        """Continues a text or tokens, event by event; options as in `RequestOptions`.

        Nothing is sent before the first event is read; time counts from this call.
        """
        stream = self._client.stream(model, prompt, sampling=sampling, **options)
        return Stream(stream, self._loop)

    def generate(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Answer:
        """Continues a text or tokens; options as in `RequestOptions`.

        It is a stream, gathered: what breaks off on the way goes on.
        """
        with self.stream(model, prompt, sampling=sampling, **options) as stream:
            return stream.answer()

    def chat_stream(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | Tool = ToolChoice.AUTO,
        single_tool_call: bool = False,
        sampling: Sampling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Stream:
        """Answers a conversation, event by event; a tool as the choice must be called."""
        stream = self._client.chat_stream(
            model,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            single_tool_call=single_tool_call,
            sampling=sampling,
            **options,
        )
        return Stream(stream, self._loop)

    def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | Tool = ToolChoice.AUTO,
        single_tool_call: bool = False,
        sampling: Sampling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Answer:
        """Answers a conversation; as `chat_stream`, gathered."""
        with self.chat_stream(
            model,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            single_tool_call=single_tool_call,
            sampling=sampling,
            **options,
        ) as stream:
            return stream.answer()

    def models(
        self, *, deadline: Duration | None = None, hedge_after: Duration | None = None
    ) -> list[Model]:
        """What is served now."""
        asking = self._client.models(deadline=deadline, hedge_after=hedge_after)
        return self._loop.run(asking)

    def tokenize(
        self,
        model: str,
        prompt: str | Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        deadline: Duration | None = None,
        hedge_after: Duration | None = None,
    ) -> Tokens:
        """The tokens of a text, or of a conversation as the model's chat template lays it out."""
        asking = self._client.tokenize(
            model, prompt, tools=tools, deadline=deadline, hedge_after=hedge_after
        )
        return self._loop.run(asking)

    def detokenize(
        self,
        model: str,
        token_ids: Sequence[int],
        *,
        deadline: Duration | None = None,
        hedge_after: Duration | None = None,
    ) -> str:
        """The text of tokens, control tokens too."""
        asking = self._client.detokenize(
            model, token_ids, deadline=deadline, hedge_after=hedge_after
        )
        return self._loop.run(asking)

    def cancel(self, request_id: str, *, deadline: Duration | None = None) -> bool:
        """Ends a request by the server's id; False when no such request was running."""
        return self._loop.run(self._client.cancel(request_id, deadline=deadline))
