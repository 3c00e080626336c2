"""Streams that break at every message are one to their callers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from conftest import Connect, StartRouter
from fake import LENGTH, SEED, Change, End, Events, Refuse, Router, token_at
from grpc import StatusCode

from baton_client import (
    Chunk,
    Complete,
    Event,
    Message,
    ProtocolError,
    RetryPolicy,
    Sampling,
    Started,
    Unavailable,
)
from baton_client._proto.baton.v1 import inference_pb2 as pb

TWO = Sampling(n=2)
#: Of an answer with two choices.
MESSAGES = 1 + 2 * LENGTH + 2
MS = timedelta(milliseconds=1)


def check(events: list[Event], seed: int = SEED, choices: int = 2) -> None:
    """One stream: everything once, in order."""
    assert isinstance(events[0], Started)
    assert not any(isinstance(event, Started) for event in events[1:])
    for choice in range(choices):
        chunks = [each for each in events if isinstance(each, Chunk) and each.choice == choice]
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        assert tokens == [token_at(seed, choice, index) for index in range(LENGTH)]
        assert [chunk.index for chunk in chunks] == list(range(LENGTH))
        ends = [each for each in events if isinstance(each, Complete) and each.choice == choice]
        assert len(ends) == 1
        assert events.index(chunks[-1]) < events.index(ends[0])


def ways_to_break(after: int) -> list[Refuse | End]:
    codes = (StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.CANCELLED)
    return [*(Refuse(code, after=after) for code in codes), End(after)]


@pytest.mark.parametrize("after", range(MESSAGES))
async def test_a_stream_goes_on_behind_any_message(
    start_router: StartRouter, connect: Connect, after: int
) -> None:
    first, second = await start_router("first"), await start_router("second")
    for act in ways_to_break(after):
        # Where it goes on it breaks once more.
        first.acts.append(act)
        second.acts.append(End(1 + after % 3))
        client = connect(first, second)
        stream = client.stream("sim", "Once", sampling=TWO)
        check([event async for event in stream])
        breaks_again = after % 3 < MESSAGES - after
        assert stream.resumed == (after > 0) + breaks_again
        answer = await stream.answer()
        assert answer.resumed == stream.resumed
        assert answer.choices[1].text.split() == [
            str(token_at(SEED, 1, index)) for index in range(LENGTH)
        ]
        assert not first.acts
        first.acts.clear()
        second.acts.clear()


async def test_each_attempt_tells_what_came(start_router: StartRouter, connect: Connect) -> None:
    first, second = await start_router("first"), await start_router("second")
    # Started, two tokens of each choice, one more of the first.
    first.acts.append(End(6))
    client = connect(first, second)
    async with client.stream("sim", "Once", sampling=TWO, tenant="acme") as stream:
        events = [event async for event in stream]
        check(events)
        assert stream.request_id == "second-1"
        assert isinstance(events[0], Started)
        assert events[0].request_id == "first-1"
    (asked,), (resumed,) = first.seen, second.seen
    assert not asked.request.HasField("resume")
    assert resumed.request.sampling.seed == SEED
    assert resumed.request.resume.request_id == "first-1"
    received = resumed.request.resume.received
    assert [len(each.token_ids) for each in received] == [3, 2]
    for name in ("x-request-id", "x-tenant-id"):
        assert asked.metadata[name] == resumed.metadata[name]
    assert asked.metadata["x-request-id"] == stream.client_request_id


async def test_before_started_all_is_asked_for_again(
    start_router: StartRouter, connect: Connect
) -> None:
    first, second = await start_router("first"), await start_router("second")
    first.acts.append(Refuse(StatusCode.UNAVAILABLE))
    answer = await connect(first, second).generate("sim", [1, 2, 3])
    assert answer.resumed == 0
    assert not second.seen[0].request.HasField("resume")
    assert not second.seen[0].request.sampling.HasField("seed")


async def test_chats_go_on_inside_a_call(router: Router, connect: Connect) -> None:
    router.acts.extend([End(3), End(2)])
    answer = await connect(router).chat("sim", [Message.user("Count.")])
    assert answer.resumed == 2
    (call,) = answer.tool_calls
    assert (call.id, call.name) == ("call-0", "count")
    assert call.arguments == "".join(str(index) for index in range(LENGTH))


def repeated(events: Events) -> Events:
    return [*events[:3], events[2], *events[3:]]


def with_a_gap(events: Events) -> Events:
    return [*events[:2], *events[3:]]


def of_another_seed(events: Events) -> Events:
    started = pb.Started()
    started.CopyFrom(events[0].started)
    started.seed += 1
    return [pb.GenerateResponse(started=started), *events[1:]]


@pytest.mark.parametrize("lie", [repeated, with_a_gap])
async def test_a_lie_is_a_typed_error(router: Router, connect: Connect, lie: object) -> None:
    router.acts.append(Change(lie))  # type: ignore[arg-type]
    stream = connect(router).stream("sim", "Once")
    with pytest.raises(ProtocolError) as error:
        await stream.answer()
    assert error.value.request_id == stream.client_request_id
    assert len(router.seen) == 1, "a liar isn't asked again"
    with pytest.raises(ProtocolError):
        await stream.answer()


@pytest.mark.parametrize("lie", [repeated, with_a_gap, of_another_seed])
async def test_a_lie_about_the_rest_is_one_too(
    start_router: StartRouter, connect: Connect, lie: object
) -> None:
    first, second = await start_router("first"), await start_router("second")
    first.acts.append(End(2))
    second.acts.append(Change(lie))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        await connect(first, second).generate("sim", "Once")


async def test_what_never_gets_further_is_given_up(router: Router, connect: Connect) -> None:
    router.acts.extend([End(3), *[End(1)] * 20])
    with pytest.raises(Unavailable, match="before its answer was complete"):
        await connect(router, retries=RetryPolicy(attempts=4, base=0)).generate("sim", "Once")
    assert len(router.seen) == 4, "one that gave tokens, and three in vain"


async def test_what_gets_further_each_time_is_not(router: Router, connect: Connect) -> None:
    router.acts.extend([End(2)] * LENGTH)
    answer = await connect(router, retries=RetryPolicy(attempts=2, base=0)).generate("sim", "Once")
    assert answer.resumed == LENGTH
    assert len(answer.token_ids) == LENGTH


async def test_a_full_router_does_not_end_a_stream_that_goes_on(
    router: Router, connect: Connect
) -> None:
    full = Refuse(StatusCode.RESOURCE_EXHAUSTED, "AT_CAPACITY", 20 * MS)
    router.acts.extend([End(3), full, full])
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await connect(router).generate("sim", "Once")
    assert len(answer.token_ids) == LENGTH
    assert loop.time() - began >= 0.04
