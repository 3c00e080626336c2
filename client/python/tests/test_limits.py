"""Refusals, limits of time, and clients that go away."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import timedelta

import pytest
from conftest import Connect, StartRouter
from fake import LENGTH, End, Hang, Refuse, Router
from grpc import StatusCode

from baton_client import (
    BatonError,
    Cancelled,
    Chunk,
    DeadlineExceeded,
    FirstTokenTimeout,
    InvalidRequest,
    NodesDied,
    Overloaded,
    RetryPolicy,
    Sampling,
    Slo,
    Unavailable,
)

MS = timedelta(milliseconds=1)
PATIENCE = 10.0
#: Sooner than keep-alive would have it.
HANGING_UP = 3.0


@pytest.mark.parametrize(
    "act",
    [
        Refuse(StatusCode.RESOURCE_EXHAUSTED, "AT_CAPACITY", MS),
        Refuse(StatusCode.UNAVAILABLE, "NO_NODES", MS),
        Refuse(StatusCode.UNAVAILABLE),
    ],
)
async def test_refusals_that_pass_are_waited_out(
    router: Router, connect: Connect, act: Refuse
) -> None:
    router.acts.extend([act, act])
    answer = await connect(router).generate("sim", "Once")
    assert len(answer.token_ids) == LENGTH
    assert len(router.seen) == 3


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (
            Refuse(StatusCode.INVALID_ARGUMENT, "INVALID_SAMPLING", field="sampling.n"),
            InvalidRequest,
        ),
        (Refuse(StatusCode.FAILED_PRECONDITION, "NODES_DIED"), NodesDied),
        (Refuse(StatusCode.RESOURCE_EXHAUSTED, "AT_CAPACITY"), Overloaded),
        (Refuse(StatusCode.CANCELLED, "CANCELLED"), Cancelled),
        (Refuse(StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"), DeadlineExceeded),
    ],
)
@pytest.mark.parametrize("after", [0, 3])
async def test_refusals_that_last_are_told_at_once(
    router: Router, connect: Connect, act: Refuse, kind: type[BatonError], after: int
) -> None:
    act.after = after
    router.acts.append(act)
    with pytest.raises(kind) as error:
        await connect(router).generate("sim", "Once", request_id="mine")
    assert error.value.code is act.code
    assert error.value.reason == act.reason
    assert error.value.field == act.field
    assert error.value.request_id == router.seen[0].metadata["x-request-id"] == "mine"
    assert len(router.seen) == 1


async def test_a_retry_that_comes_too_late_is_not_waited_for(
    router: Router, connect: Connect
) -> None:
    router.acts.append(Refuse(StatusCode.RESOURCE_EXHAUSTED, "AT_CAPACITY", 60_000 * MS))
    began = time.monotonic()
    with pytest.raises(Overloaded) as error:
        await connect(router).generate("sim", "Once", deadline=5)
    assert time.monotonic() - began < 5
    assert error.value.retry_after == 60_000 * MS


async def test_the_budget_is_the_clients(router: Router, connect: Connect) -> None:
    refusal = Refuse(StatusCode.RESOURCE_EXHAUSTED, "AT_CAPACITY", MS)
    router.acts.extend([refusal] * 100)
    client = connect(router, retries=RetryPolicy(base=0, budget=3, budget_per_request=0))
    for _ in range(5):
        with pytest.raises(Overloaded):
            await client.generate("sim", "Once")
    assert len(router.seen) == 5 + 3


async def test_what_is_left_of_the_deadline_is_sent_on(router: Router, connect: Connect) -> None:
    router.acts.extend([End(2), Refuse(StatusCode.UNAVAILABLE, "NO_NODES", 300 * MS)])
    await connect(router).generate("sim", "Once", deadline=timedelta(seconds=2))
    left = [seen.time_remaining for seen in router.seen]
    assert all(each is not None for each in left)
    first, _, last = (each or 0 for each in left)
    # On the wire a time has three digits, and is rounded up.
    assert 1.8 < first <= 2.1
    assert last <= first - 0.25


@pytest.mark.parametrize("after", [0, 3])
async def test_the_deadline_ends_a_stream_that_hangs(
    router: Router, connect: Connect, after: int
) -> None:
    router.acts.append(Hang(after))
    with pytest.raises(DeadlineExceeded):
        await connect(router).generate("sim", "Once", deadline=0.3)
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)
    assert len(router.seen) == 1


async def test_no_first_token_in_time(router: Router, connect: Connect) -> None:
    router.acts.append(Hang(1))
    with pytest.raises(FirstTokenTimeout, match="no token came within 0.2 s") as error:
        await connect(router).generate("sim", "Once", first_token_within=200 * MS, deadline=9)
    assert isinstance(error.value, TimeoutError)
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)


async def test_the_first_token_in_time_is_enough(router: Router, connect: Connect) -> None:
    router.acts.append(Hang(2))
    stream = connect(router).stream("sim", "Once", first_token_within=0.5, deadline=1.0)
    with pytest.raises(DeadlineExceeded):
        await stream.answer()


async def test_it_does_not_count_any_more_when_the_stream_goes_on(
    router: Router, connect: Connect
) -> None:
    router.acts.extend([End(3), Refuse(StatusCode.UNAVAILABLE, "NO_NODES", 300 * MS)])
    answer = await connect(router).generate("sim", "Once", first_token_within=0.25)
    assert answer.resumed == 1


async def test_attempts_share_the_time_to_the_first_token(router: Router, connect: Connect) -> None:
    router.acts.extend([End(1), Hang(1)])
    with pytest.raises(FirstTokenTimeout):
        await connect(router).generate("sim", "Once", first_token_within=0.3)
    assert len(router.seen) == 2


async def test_leaving_cancels(router: Router, connect: Connect) -> None:
    router.acts.append(Hang(2))
    async with connect(router).stream("sim", "Once") as stream:
        async for event in stream:
            if isinstance(event, Chunk):
                break
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)
    assert [event async for event in stream] == []


async def test_cancelling_the_task_cancels(router: Router, connect: Connect) -> None:
    router.acts.append(Hang(2))
    task = asyncio.create_task(connect(router).generate("sim", "Once"))
    await asyncio.wait_for(router.called.wait(), PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)
    assert len(router.seen) == 1


async def test_dropping_the_stream_cancels(router: Router, connect: Connect) -> None:
    router.acts.append(Hang(2))
    stream = connect(router).stream("sim", "Once")
    await anext(stream)
    del stream
    gc.collect()
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)


async def test_closing_the_client_ends_short_calls(router: Router, connect: Connect) -> None:
    router.acts.append(Hang())
    client = connect(router)
    asking = asyncio.ensure_future(client.models())
    await asyncio.wait_for(router.called.wait(), PATIENCE)
    await client.close()
    with pytest.raises(Cancelled):
        await asyncio.wait_for(asking, HANGING_UP)
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)


@pytest.mark.parametrize("how", ["stream", "client"])
async def test_closing_under_a_reader_tells_it(router: Router, connect: Connect, how: str) -> None:
    router.acts.append(Hang(2))
    client = connect(router)
    stream = client.stream("sim", "Once")
    assert not isinstance(await anext(stream), Chunk)
    assert isinstance(await anext(stream), Chunk)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.wait([reader], timeout=0.05)
    await (stream.aclose() if how == "stream" else client.close())
    with pytest.raises(Cancelled):
        await asyncio.wait_for(reader, HANGING_UP)
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)


async def test_a_closed_client_says_so(router: Router, connect: Connect) -> None:
    client = connect(router)
    await client.close()
    with pytest.raises(Cancelled, match="closed"):
        await client.models()
    with pytest.raises(Cancelled, match="closed"):
        await client.generate("sim", "Once")
    with pytest.raises(Cancelled, match="closed"):
        await client.cancel("fake")


async def test_options_are_told(router: Router, connect: Connect) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await connect(router).generate(
        "sim",
        "Once",
        sampling=Sampling(seed=1),
        tenant="acme",
        service_class="batch",
        slo=Slo(ttft=timedelta(seconds=1.5), tpot=0.0125),
        trace_parent=parent,
    )
    metadata = router.seen[0].metadata
    told = {name: metadata[name] for name in metadata if name.startswith("x-slo")}
    assert told == {
        "x-slo-class": "batch",
        "x-slo-ttft-ms": "1500.000",
        "x-slo-tpot-ms": "12.500",
    }
    assert metadata["traceparent"] == parent
    assert metadata["x-tenant-id"] == "acme"
    with pytest.raises(TypeError, match="tenant_id"):
        connect(router).stream("sim", "Once", tenant_id="acme")  # type: ignore[call-arg]


async def test_an_endpoint_that_is_not_there_is_passed_over(
    start_router: StartRouter, connect: Connect
) -> None:
    router = await start_router()
    client = connect("127.0.0.1:1", router)
    for _ in range(4):
        assert len((await client.generate("sim", "Once")).token_ids) == LENGTH
    with pytest.raises(Unavailable, match="127.0.0.1:1 can't be reached"):
        await connect("127.0.0.1:1").generate("sim", "Once")
