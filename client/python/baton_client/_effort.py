"""One request's attempts at the endpoints, within its limits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import grpc
from grpc import StatusCode

from ._channel import Endpoint
from ._endpoints import Endpoints
from ._status import Refused
from .errors import BatonError, Cancelled, DeadlineExceeded, FirstTokenTimeout, error_of
from .options import Asked, Metadata, seconds
from .retry import Attempts, Budget, RetryPolicy
from .security import Token, authorization

if TYPE_CHECKING:
    from ._proto.baton.v1.inference_pb2_grpc import InferenceAsyncStub

T = TypeVar("T")


class Failed(Exception):
    """An attempt failed; not for callers."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Way:
    """Where an attempt goes, and what it is sent with."""

    stub: InferenceAsyncStub
    metadata: Metadata
    #: Seconds that are left of the request's deadline.
    timeout: float | None


class Transport:
    """What a client's requests share: endpoints, who asks, and the budget of retries."""

    def __init__(
        self, endpoints: Sequence[Endpoint], token: Token | None, policy: RetryPolicy
    ) -> None:
        self.endpoints = Endpoints(endpoints)
        self.token = token
        self.policy = policy
        self.budget = Budget(policy)
        self.draw = random.Random()
        self.is_closed = False
        # Not every version of gRPC ends them with their channel.
        self.calls: WeakSet[grpc.aio.Call] = WeakSet()
        self._probes: set[asyncio.Task[None]] = set()

    def pick(self, last: Endpoint | None) -> Endpoint:
        """Where to go next; those that failed long enough ago are probed meanwhile."""
        endpoint = self.endpoints.pick(last)
        for due in self.endpoints.to_probe(time.monotonic()):
            probe = asyncio.create_task(self._probe(due))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
        return endpoint

    async def _probe(self, endpoint: Endpoint) -> None:
        serves = False
        try:
            serves = await endpoint.serves()
        finally:
            # Whatever comes of it: one that is never judged would never be probed again.
            if serves:
                self.endpoints.work(endpoint)
            else:
                self.endpoints.fail(endpoint, time.monotonic())

    async def close(self) -> None:
        """Ends all calls."""
        self.is_closed = True
        for call in list(self.calls):
            call.cancel()
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints.all))


class Effort:
    """What is done for one request until it is answered or given up."""

    def __init__(self, transport: Transport, asked: Asked, beside: Effort | None = None) -> None:
        self.asked = asked
        self._transport = transport
        self._attempts = Attempts(transport.policy, transport.budget, transport.draw)
        # Another effort for the same goes elsewhere.
        self._endpoint: Endpoint | None = None if beside is None else beside._endpoint
        self._ends_at = asked.ends_at
        self._first_token_at = asked.first_token_at
        self._metadata = asked.metadata()
        if beside is None:
            transport.budget.earn()

    @property
    def is_closed(self) -> bool:
        """Whether its client is."""
        return self._transport.is_closed

    async def connect(self) -> Way:
        """The way for the next attempt.

        Raises:
            Failed: The endpoint whose turn it is isn't there.
            BatonError: The request's time is over, or its client was closed.
        """
        if self._transport.is_closed:
            raise Cancelled("the client is closed", request_id=self.asked.request_id)
        endpoint = self._endpoint = self._transport.pick(self._endpoint)
        if not await self.within(endpoint.is_ready()):
            message = f"{endpoint.target} can't be reached"
            raise Failed(Refused(StatusCode.UNAVAILABLE, message))
        who = await self.within(authorization(self._transport.token))
        left = None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())
        return Way(endpoint.stub, self._metadata + who, left)

    async def within(self, awaitable: Awaitable[T]) -> T:
        """Waits, but no longer than the request's limits let it."""
        limit = self._limit()
        if limit is None:
            return await awaitable
        try:
            return await asyncio.wait_for(awaitable, max(0.0, limit - time.monotonic()))
        except asyncio.TimeoutError:
            raise self._too_late() from None

    async def recover(self, failure: Refused) -> None:
        """Waits until the next attempt.

        Raises:
            BatonError: There is none; it says why the last one failed.
        """
        endpoint, endpoints = self._endpoint, self._transport.endpoints
        if self._transport.is_closed:
            raise Cancelled("the client was closed", request_id=self.asked.request_id)
        elsewhere = False
        if endpoint is not None and failure.is_endpoints:
            endpoints.fail(endpoint, time.monotonic())
            elsewhere = endpoints.has_other_than(endpoint)
        elif failure.reason:
            # Who refuses is there.
            self.works()
        pause = self._attempts.pause_after(failure, elsewhere=elsewhere)
        limit = self._limit()
        if pause is None or (limit is not None and time.monotonic() + pause >= limit):
            raise self.error(failure)
        await asyncio.sleep(pause)

    def track(self, call: grpc.aio.Call) -> None:
        """It ends with the client, if not before."""
        self._transport.calls.add(call)

    def works(self) -> None:
        """The endpoint answered."""
        if self._endpoint is not None:
            self._transport.endpoints.work(self._endpoint)

    def progress(self) -> None:
        """A token came."""
        self._attempts.progress()
        self._first_token_at = None

    def error(self, failure: Refused) -> BatonError:
        """What a caller hears of it."""
        return error_of(failure, self.asked.request_id)

    def hedge(self) -> Effort | None:
        """One for the same at once, elsewhere, if the budget of retries has one."""
        is_left = self._transport.budget.take()
        return Effort(self._transport, self.asked, beside=self) if is_left else None

    def _limit(self) -> float | None:
        limits = [at for at in (self._ends_at, self._first_token_at) if at is not None]
        return min(limits, default=None)

    def _too_late(self) -> BatonError:
        request_id, asked = self.asked.request_id, self.asked
        ends_at = self._ends_at
        if self._first_token_at is None or (ends_at is not None and ends_at < self._first_token_at):
            code = StatusCode.DEADLINE_EXCEEDED
            waited = seconds(asked.deadline or 0)
            message = f"the deadline of {waited:g} s passed"
            return DeadlineExceeded(message, code=code, request_id=request_id)
        waited = seconds(asked.first_token_within or 0)
        message = f"no token came within {waited:g} s"
        return FirstTokenTimeout(message, request_id=request_id)
