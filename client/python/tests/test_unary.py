"""Calls with one answer: again, elsewhere, twice at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from conftest import Connect, StartRouter
from fake import Hang, Refuse
from grpc import StatusCode

from baton_client import DeadlineExceeded, InvalidRequest, Message, RetryPolicy, Unavailable

PATIENCE = 10.0
DOWN = Refuse(StatusCode.UNAVAILABLE)


async def test_they_are_asked_again_elsewhere(start_router: StartRouter, connect: Connect) -> None:
    first, second = await start_router("first"), await start_router("second")
    first.acts.append(DOWN)
    client = connect(first, second)
    assert [model.id for model in await client.models()] == ["second"]
    tokens = await client.tokenize("sim", "abc")
    assert (tokens.token_ids, tokens.max_context) == ((97, 98, 99), 9)
    assert await client.detokenize("sim", tokens.token_ids) == "abc"
    assert len(first.seen) == 1, "it is passed over"


async def test_conversations_are_tokenised(start_router: StartRouter, connect: Connect) -> None:
    router = await start_router()
    await connect(router).tokenize("sim", [Message.user("Hello!")])
    conversation = router.seen[0].request.conversation
    assert [message.content for message in conversation.messages] == ["Hello!"]


async def test_what_is_wrong_is_asked_once(start_router: StartRouter, connect: Connect) -> None:
    router = await start_router()
    router.acts.append(Refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", field="text"))
    with pytest.raises(InvalidRequest) as error:
        await connect(router).tokenize("sim", "abc")
    assert error.value.field == "text"
    assert len(router.seen) == 1


async def test_a_second_one_is_asked_where_the_first_is_slow(
    start_router: StartRouter, connect: Connect
) -> None:
    slow, quick = await start_router("slow"), await start_router("quick")
    slow.acts.append(Hang())
    client = connect(slow, quick)
    asking = client.models(hedge_after=timedelta(milliseconds=20))
    models = await asyncio.wait_for(asking, 3)
    assert [model.id for model in models] == ["quick"]
    await asyncio.wait_for(slow.hung_up.wait(), 3)


async def test_without_being_asked_to_it_isnt(start_router: StartRouter, connect: Connect) -> None:
    slow, quick = await start_router("slow"), await start_router("quick")
    slow.acts.append(Hang())
    with pytest.raises(DeadlineExceeded):
        await connect(slow, quick).models(deadline=0.2)
    assert not quick.seen


async def test_one_that_fails_leaves_it_to_the_other(
    start_router: StartRouter, connect: Connect
) -> None:
    slow, broken = await start_router("slow"), await start_router("broken")
    slow.acts.append(Hang())
    broken.acts.append(Refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"))
    client = connect(slow, broken)
    asking = asyncio.ensure_future(client.models(hedge_after=0.01, deadline=0.5))
    with pytest.raises((DeadlineExceeded, InvalidRequest)):
        await asking
    assert len(slow.seen) == len(broken.seen) == 1


async def test_second_ones_come_out_of_the_budget(
    start_router: StartRouter, connect: Connect
) -> None:
    slow, quick = await start_router("slow"), await start_router("quick")
    slow.acts.append(Hang())
    client = connect(slow, quick, retries=RetryPolicy(budget=0))
    with pytest.raises(DeadlineExceeded):
        await client.models(hedge_after=0.01, deadline=0.2)
    assert not quick.seen


async def test_every_router_is_asked_to_cancel(start_router: StartRouter, connect: Connect) -> None:
    first, second = await start_router("first"), await start_router("second")
    client = connect(first, second)
    assert await client.cancel("second")
    assert not await client.cancel("nobody")
    assert len(first.seen) == len(second.seen) == 2
    first.acts.append(DOWN)
    assert await client.cancel("second"), "one that is down knows nothing"
    with pytest.raises(Unavailable):
        await connect("127.0.0.1:1").cancel("second")


async def test_what_failed_is_probed_beside_the_requests(
    start_router: StartRouter, connect: Connect
) -> None:
    first, second = await start_router("first"), await start_router("second")
    first.acts.append(DOWN)
    client = connect(first, second)

    async def until(event: asyncio.Event) -> None:
        while not event.is_set():
            assert [model.id for model in await client.models()] == ["second"]

    # Its time is up, and it says that it doesn't serve.
    first.health = b"\x08\x02"
    await asyncio.wait_for(until(first.probed), PATIENCE)
    first.probed.clear()
    assert len(first.seen) == 1
    # Now it does.
    first.health = b"\x08\x01"
    await asyncio.wait_for(until(first.probed), PATIENCE)
    while [model.id for model in await client.models()] != ["first"]:
        assert len(second.seen) < 100_000, "it is used again"
    # A message whose only field is the service's name.
    assert first.probes == [b"\x0a\x12baton.v1.Inference"] * 2


async def test_who_refuses_is_there(start_router: StartRouter, connect: Connect) -> None:
    first, second = await start_router("first"), await start_router("second")
    client = connect(first, second)
    # Both fail; the first is asked again, and refuses.
    first.acts.extend([DOWN, Refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")])
    second.acts.append(DOWN)
    with pytest.raises(InvalidRequest):
        await client.models()
    # It is used at once, and the second one is still passed over.
    assert not client._transport.endpoints.has_other_than(client._transport.endpoints.all[0])
    assert client._transport.endpoints.has_other_than(client._transport.endpoints.all[1])
