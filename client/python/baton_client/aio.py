"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from ._channel import Endpoint, Patience
from ._effort import Effort, Transport
from ._proto.baton.v1 import inference_pb2 as pb
from ._stream import AsyncStream
from ._unary import hedged
from .answer import Answer
from .messages import (
    Message,
    Tool,
    ToolChoice,
    chat_request,
    generate_request,
    tokenize_request,
)
from .options import Asked, Duration
from .retry import RetryPolicy
from .sampling import Sampling
from .security import TlsConfig, Token, is_loopback, parse_endpoint

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .options import RequestOptions


@dataclass(frozen=True, slots=True)
class Model:
    """What is served."""

    id: str
    #: The most tokens of prompt and answer together.
    max_context: int
    #: Nodes of the same one give the same bits.
    numerics_id: str
    prefill_nodes: int
    decode_nodes: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens."""

    token_ids: tuple[int, ...]
    #: The most tokens of prompt and answer together.
    max_context: int


class AsyncClient:
    """A cluster, through any of its routers.

    Args:
        endpoints: `host:port` of the routers, or the URLs that `baton up` prints. They are used in
            turn; those that fail are passed over for a while. A name that stands for several
            addresses is one endpoint, and all its addresses are used.
        tls: TLS, mutual if it has a certificate; None is without.
        token: A bearer token, or what gives the present one.
        insecure: Sends the token without TLS to other machines, too: whoever listens has it.
        retries: How to go on when attempts fail.
        patience: How long a silent connection is waited for.

    Raises:
        ValueError: An endpoint can't be one, or the token would go over the network in the clear.
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
        given = [endpoints] if isinstance(endpoints, str) else endpoints
        # One that is given twice would have two connections and one fate.
        targets = list(dict.fromkeys(parse_endpoint(each, tls) for each in given))
        if token is not None and tls is None and not insecure:
            _refuse_listeners(targets)
        connections = [Endpoint(each, tls, patience or Patience()) for each in targets]
        self._transport = Transport(connections, token, retries or RetryPolicy())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; whatever still runs is cancelled."""
        await self._transport.close()

    def stream(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncStream:
        """Continues a text or tokens, event by event; options as in `RequestOptions`.

        Nothing is sent before the first event is read; time counts from this call.
        """
        return self._stream(generate_request(model, prompt), sampling, options)

    async def generate(
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
        async with self.stream(model, prompt, sampling=sampling, **options) as stream:
            return await stream.answer()

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
    ) -> AsyncStream:
        """Answers a conversation, event by event; a tool as the choice must be called."""
        request = chat_request(model, messages, tools, tool_choice, single_tool_call)
        return self._stream(request, sampling, options)

    async def chat(
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
        async with self.chat_stream(
            model,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            single_tool_call=single_tool_call,
            sampling=sampling,
            **options,
        ) as stream:
            return await stream.answer()

    async def models(
        self, *, deadline: Duration | None = None, hedge_after: Duration | None = None
    ) -> list[Model]:
        """What is served now."""
        effort = self._effort(deadline)
        request = pb.ListModelsRequest()
        answer = await hedged(effort, lambda stub: stub.ListModels, request, hedge_after)
        return [
            Model(
                each.id,
                each.max_context,
                each.numerics_id,
                each.prefill_nodes,
                each.decode_nodes,
            )
            for each in answer.models
        ]

    async def tokenize(
        self,
        model: str,
        prompt: str | Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        deadline: Duration | None = None,
        hedge_after: Duration | None = None,
    ) -> Tokens:
        """The tokens of a text, or of a conversation as the model's chat template lays it out."""
        effort, request = self._effort(deadline), tokenize_request(model, prompt, tools)
        answer = await hedged(effort, lambda stub: stub.Tokenize, request, hedge_after)
        return Tokens(tuple(answer.token_ids), answer.max_context)

    async def detokenize(
        self,
        model: str,
        token_ids: Sequence[int],
        *,
        deadline: Duration | None = None,
        hedge_after: Duration | None = None,
    ) -> str:
        """The text of tokens, control tokens too."""
        effort = self._effort(deadline)
        request = pb.DetokenizeRequest(model=model, token_ids=token_ids)
        answer = await hedged(effort, lambda stub: stub.Detokenize, request, hedge_after)
        return answer.text

    async def cancel(self, request_id: str, *, deadline: Duration | None = None) -> bool:
        """Ends a request by the server's id; False when no such request was running.

        Only the router that runs it knows it, so all endpoints are asked. Of a name that stands
        for several addresses one is asked; close the stream instead where that can be done.
        """
        asking = [
            self._cancel_at(endpoint, request_id, deadline)
            for endpoint in self._transport.endpoints.all
        ]
        told = await asyncio.gather(*asking, return_exceptions=True)
        errors = [each for each in told if isinstance(each, BaseException)]
        if len(errors) == len(told):
            raise errors[0]
        return any(each is True for each in told)

    async def _cancel_at(
        self, endpoint: Endpoint, request_id: str, deadline: Duration | None
    ) -> bool:
        alone = Transport([endpoint], self._transport.token, RetryPolicy(attempts=1))
        alone.is_closed = self._transport.is_closed
        effort = Effort(alone, Asked(deadline=deadline))
        request = pb.CancelRequest(request_id=request_id)
        return (await hedged(effort, lambda stub: stub.Cancel, request, None)).cancelled

    def _effort(self, deadline: Duration | None) -> Effort:
        return Effort(self._transport, Asked(deadline=deadline))

    def _stream(
        self,
        request: pb.GenerateRequest | pb.ChatRequest,
        sampling: Sampling | None,
        options: RequestOptions,
    ) -> AsyncStream:
        effort = Effort(self._transport, Asked(**options))
        return AsyncStream(effort, request, sampling or Sampling())


def _refuse_listeners(targets: Sequence[str]) -> None:
    for target in targets:
        if not is_loopback(target):
            message = f"a token would be sent to {target} in the clear; pass tls, or insecure=True"
            raise ValueError(message)
