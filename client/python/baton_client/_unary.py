"""Calls with one answer, which may be made again and, if asked to, twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

from ._effort import Effort, Failed, Way
from ._status import refused
from .errors import Cancelled
from .options import Duration, seconds

if TYPE_CHECKING:
    from ._proto.baton.v1.inference_pb2_grpc import InferenceAsyncStub

T = TypeVar("T")
Method: TypeAlias = "Callable[[InferenceAsyncStub], Callable[..., grpc.aio.UnaryUnaryCall[Any, T]]]"


async def call(effort: Effort, method: Method[T], request: object) -> T:
    """Asks until there is an answer, or no use in asking."""
    while True:
        try:
            way = await effort.connect()
            answer = await _send(effort, method, way, request)
        except Failed as failed:
            await effort.recover(failed.refused)
        except asyncio.CancelledError:
            if effort.is_closed:
                message = "the client was closed"
                raise Cancelled(message, request_id=effort.asked.request_id) from None
            raise
        else:
            effort.works()
            return answer


async def _send(effort: Effort, method: Method[T], way: Way, request: object) -> T:
    try:
        sent = method(way.stub)(request, timeout=way.timeout, metadata=way.metadata)
        effort.track(sent)
        return await sent
    except grpc.aio.AioRpcError as error:
        raise Failed(refused(error)) from error


async def hedged(effort: Effort, method: Method[T], request: object, after: Duration | None) -> T:
    """The same; if nothing came for so long it is asked once more, and the first answer counts."""
    if after is None:
        return await call(effort, method, request)
    calls = [asyncio.ensure_future(call(effort, method, request))]
    try:
        done, _ = await asyncio.wait(calls, timeout=seconds(after))
        if not done and (second := effort.hedge()) is not None:
            calls.append(asyncio.ensure_future(call(second, method, request)))
        return await _first_good(calls)
    finally:
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _first_good(calls: list[asyncio.Task[T]]) -> T:
    """The first answer; the last failure where there is none."""
    waiting: set[asyncio.Task[T]] = set(calls)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        good = [each for each in done if each.exception() is None]
        if good or not waiting:
            return (good or list(done))[0].result()
