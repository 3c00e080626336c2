"""Clusters of real processes, whose routers and nodes are killed and stopped while they answer."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster import Cluster

from baton_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    Choice,
    Chunk,
    Client,
    ContextTooLong,
    FinishReason,
    InvalidRequest,
    Message,
    ModelNotFound,
    Sampling,
    Slo,
    Tool,
    ToolChoice,
)
from baton_client._endpoints import Endpoints

PATIENCE = 20.0
STREAMS = 50
NUMBERS = {
    "type": "object",
    "properties": {
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 6, "maxItems": 6}
    },
    "required": ["numbers"],
    "additionalProperties": False,
}
COUNT = Tool("count", parameters=NUMBERS)

Ask = Callable[[AsyncClient, int | None], AsyncStream]


def text(**sampling: Any) -> Ask:
    def ask(client: AsyncClient, seed: int | None) -> AsyncStream:
        defaults: dict[str, Any] = {"max_tokens": 150, "ignore_eos": True, "seed": seed}
        drawn = Sampling(**(defaults | sampling))
        return client.stream("sim", "Once upon a time", sampling=drawn)

    return ask


def calling(client: AsyncClient, seed: int | None) -> AsyncStream:
    return client.chat_stream(
        "sim",
        [Message.user("Count.")],
        tools=[COUNT],
        tool_choice=ToolChoice.REQUIRED,
        sampling=Sampling(max_tokens=300, seed=seed),
    )


#: Streams of every kind.
KINDS: list[Ask] = [
    text(),
    text(n=3, logprobs=2, prompt_logprobs=1),
    text(stop=["a", "q"]),
    text(temperature=0.8, top_k=40, repetition_penalty=1.2, frequency_penalty=0.3, min_tokens=3),
    text(json_schema=NUMBERS, ignore_eos=False),
    calling,
]


async def read(stream: AsyncStream, chunks: int) -> int:
    """Reads so many chunks, or to the end; what a `Started` told is the seed."""
    seed, read = 0, 0
    async for event in stream:
        seed = getattr(event, "seed", seed)
        read += isinstance(event, Chunk)
        if read == chunks:
            break
    return seed


def told(choice: Choice) -> dict[str, Any]:
    """What doesn't depend on when and where it was computed: of logits each bit."""
    fields = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice)}
    calls = [(call.name, call.arguments) for call in choice.tool_calls]
    usage = (choice.usage.prompt_tokens, choice.usage.completion_tokens)
    del fields["timings"]
    return fields | {"tool_calls": calls, "usage": usage}


async def survive(cluster: Cluster, harm: Callable[[], None], least: int) -> float:
    """Streams go on through `harm`; returns how long they took from there on, in seconds."""
    async with AsyncClient(cluster.addresses) as client:
        # Those of a kind one after another, so that both routers have some of each.
        asks = [KINDS[number * len(KINDS) // STREAMS] for number in range(STREAMS)]
        streams = [ask(client, None) for ask in asks]
        seeds = await asyncio.gather(*(read(stream, 4) for stream in streams))
        harm()
        began = time.monotonic()
        answers = await asyncio.gather(*(stream.answer() for stream in streams))
        took = time.monotonic() - began
        assert sum(answer.resumed > 0 for answer in answers) >= least
        undisturbed = [ask(client, seed) for ask, seed in zip(asks, seeds, strict=True)]
        expected = await asyncio.gather(*(stream.answer() for stream in undisturbed))
        assert not any(answer.resumed for answer in expected)
        for answer, other in zip(answers, expected, strict=True):
            assert answer.prompt_logprobs == other.prompt_logprobs
            assert [told(each) for each in answer.choices] == [told(each) for each in other.choices]
    return took


async def test_a_router_is_killed() -> None:
    with Cluster.start(routers=2, decode_us=8000) as cluster:
        first, _ = cluster.addresses
        await survive(cluster, lambda: cluster.signal_router(first, signal.SIGKILL), STREAMS // 3)


async def test_a_router_and_a_decode_node_are_killed_at_once() -> None:
    with Cluster.start(routers=2, decode_us=8000) as cluster:

        def harm() -> None:
            cluster.signal_router(cluster.addresses[0], signal.SIGKILL)
            cluster.kill_node("decode-1")

        await survive(cluster, harm, STREAMS // 3)


async def test_a_decode_node_is_killed() -> None:
    """Routers see to that: the client doesn't notice."""
    with Cluster.start(routers=2, decode_us=8000) as cluster:
        await survive(cluster, lambda: cluster.kill_node("decode-1"), 0)


async def test_a_router_is_stopped() -> None:
    with Cluster.start(routers=2, decode_us=8000) as cluster:
        first, _ = cluster.addresses
        took = await survive(cluster, lambda: cluster.signal_router(first, signal.SIGSTOP), 3)
        assert took < 10, "two seconds until it is asked for a sign, two until that is missed"
        # A client that meets it for the first time loses no more than it waits for a connection.
        async with AsyncClient(cluster.addresses) as client:
            began = time.monotonic()
            assert await client.models()
            assert time.monotonic() - began < 4
            assert await client.models(hedge_after=0.1)


async def test_a_lone_router_that_comes_back_is_found(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, broken, fail = cluster.addresses[0], asyncio.Event(), Endpoints.fail

    def tell(self: Endpoints[Any], endpoint: Any, now: float) -> None:
        fail(self, endpoint, now)
        broken.set()

    monkeypatch.setattr(Endpoints, "fail", tell)
    async with AsyncClient(first) as client:
        stream = text(max_tokens=400)(client, 5)
        await read(stream, 4)
        cluster.signal_router(first, signal.SIGSTOP)
        rest = asyncio.ensure_future(stream.answer())
        await asyncio.wait_for(broken.wait(), PATIENCE)
        cluster.signal_router(first, signal.SIGCONT)
        answer = await asyncio.wait_for(rest, PATIENCE)
        expected = await text(max_tokens=400)(client, 5).answer()
    assert answer.resumed >= 1
    assert told(answer.choices[0]) == told(expected.choices[0])


async def test_everything_that_can_be_asked(cluster: Cluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        (model,) = await client.models(deadline=PATIENCE)
        assert (model.id, model.prefill_nodes, model.decode_nodes) == ("sim", 1, 2)
        tokens = await client.tokenize("sim", "Hello!")
        assert tokens.max_context == model.max_context
        assert await client.detokenize("sim", tokens.token_ids) == "Hello!"
        sampling = Sampling(max_tokens=5, seed=1)
        by_text = await client.generate("sim", "Hello!", sampling=sampling)
        by_tokens = await client.generate(
            "sim", tokens.token_ids, sampling=sampling, slo=Slo(ttft=10, tpot=1), tenant="acme"
        )
        assert told(by_text.choices[0]) == told(by_tokens.choices[0])
        assert by_text.finish_reason is FinishReason.LENGTH
        assert by_text.usage.completion_tokens == 5
        assert by_text.timings.ttft.total_seconds() > 0
        chat = await client.chat("sim", [Message.user("Count.")], tools=[COUNT], tool_choice=COUNT)
        assert chat.finish_reason is FinishReason.TOOL_CALLS
        assert len(chat.tool_calls[0].parsed()["numbers"]) == 6


async def test_errors_are_the_clusters(cluster: Cluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(ModelNotFound, match="nope"):
            await client.generate("nope", "Once")
        with pytest.raises(InvalidRequest) as error:
            await client.generate("sim", "Once", sampling=Sampling(top_p=3))
        assert error.value.field == "sampling.top_p"
        with pytest.raises(ContextTooLong):
            await client.generate("sim", "Once " * 4000)
        with pytest.raises(InvalidRequest, match="class"):
            await client.generate("sim", "Once", service_class="nope")


async def test_requests_are_cancelled_by_id(cluster: Cluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        stream = text(max_tokens=8000)(client, None)
        await read(stream, 1)
        assert stream.request_id is not None
        assert await client.cancel(stream.request_id)
        with pytest.raises(Cancelled) as error:
            await stream.answer()
        assert error.value.reason == "CANCELLED"
        assert not await client.cancel(stream.request_id)


def test_without_an_event_loop(cluster: Cluster) -> None:
    with Client(cluster.addresses) as client:
        whole = client.generate("sim", "Once", sampling=Sampling(max_tokens=20, seed=3))
        with client.stream("sim", "Once", sampling=Sampling(max_tokens=20, seed=3)) as stream:
            assert "".join(stream.text()) == whole.text
