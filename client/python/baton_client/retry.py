"""When to ask again, and how often: decisions without a clock or a network."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ._status import Refused


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client goes on when an attempt fails.

    The first attempt after a connection broke is every request's right; every other one comes out
    of a budget that all requests of the client share, so that what is tried again doesn't become
    what keeps a cluster down.
    """

    #: In a row without a new token; then the request fails.
    attempts: int = 8
    #: Seconds. A pause is drawn from 0 to `base`, twice as much after each failure in a row, ...
    base: float = 0.1
    #: ... but never more than this.
    longest: float = 2.0
    #: How many retries at once, ...
    budget: float = 10.0
    #: ... and how many more come with each request.
    budget_per_request: float = 0.2

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; it must be at least 1")
        for name in ("base", "longest", "budget", "budget_per_request"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")


class Budget:
    """The retries that a client has left."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._most = policy.budget
        self._left = policy.budget
        self._share = policy.budget_per_request

    def earn(self) -> None:
        """A request came."""
        self._left = min(self._most, self._left + self._share)

    def take(self) -> bool:
        """Takes one, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Attempts:
    """One request's attempts in a row."""

    def __init__(self, policy: RetryPolicy, budget: Budget, draw: random.Random) -> None:
        self._policy = policy
        self._budget = budget
        self._draw = draw
        self._failed = 0

    def progress(self) -> None:
        """A token came: what failed before wasn't in vain."""
        self._failed = 0

    def pause_after(self, failure: Refused, *, elsewhere: bool) -> float | None:
        """Seconds until the next attempt, at another endpoint or not; None when there is none."""
        self._failed += 1
        if not failure.is_worth_another or self._failed >= self._policy.attempts:
            return None
        is_free = self._failed == 1 and failure.is_endpoints
        if not is_free and not self._budget.take():
            return None
        most = min(self._policy.longest, self._policy.base * 2 ** (self._failed - 1))
        pause = self._draw.uniform(0, most)
        if failure.retry_after is None or (failure.is_endpoints and elsewhere):
            # What an endpoint that leaves says of its return binds nobody who goes elsewhere.
            return pause
        return failure.retry_after.total_seconds() + pause
