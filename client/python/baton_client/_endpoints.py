"""Which endpoint is asked next: pure, time comes as an argument.

An endpoint that failed is passed over for a second, and for twice as long each time it fails again.
Then it is probed beside the requests, which go elsewhere meanwhile: nobody waits for a probe, not
even at a router that takes connections and says nothing. Where all have failed, the one whose time
is up first is asked all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

FIRST_PASSED_OVER = 1.0
LONGEST_PASSED_OVER = 30.0


class Named(Protocol):
    """What can be asked."""

    @property
    def target(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(slots=True)
class _Health:
    failures: int = 0
    #: When it is probed; of no meaning while it has no failures.
    until: float = 0.0
    is_probed: bool = False


@dataclass(slots=True)
class Endpoints(Generic[T]):
    """Those that were given, in turn, but for those that failed."""

    all: Sequence[T]
    _health: dict[str, _Health] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        if not self.all:
            raise ValueError("no endpoint is given; name at least one host:port")
        self._health = {endpoint.target: _Health() for endpoint in self.all}

    def pick(self, last: T | None) -> T:
        """The next one; not the one that was asked `last`, if there is another that works."""
        turn = [*self.all[self._next :], *self.all[: self._next]]
        self._next = (self._next + 1) % len(self.all)
        well = [each for each in turn if self._health[each.target].failures == 0]
        others = [each for each in well if each is not last]
        if others or well:
            return (others or well)[0]
        return min(turn, key=lambda each: self._health[each.target].until)

    def has_other_than(self, endpoint: T) -> bool:
        """Whether another one works."""
        return any(
            each is not endpoint and self._health[each.target].failures == 0 for each in self.all
        )

    def fail(self, endpoint: T, now: float) -> None:
        """It couldn't be reached, or its connection broke."""
        health = self._health[endpoint.target]
        health.is_probed = False
        if health.failures and now < health.until:
            # The streams that break with one router are one failure.
            return
        health.failures += 1
        passed_over = FIRST_PASSED_OVER * 2 ** min(health.failures - 1, 16)
        health.until = now + min(passed_over, LONGEST_PASSED_OVER)

    def work(self, endpoint: T) -> None:
        """It answered."""
        self._health[endpoint.target] = _Health()

    def to_probe(self, now: float) -> list[T]:
        """Those whose time is up; each is told once until it fails or works."""
        due = []
        for endpoint in self.all:
            health = self._health[endpoint.target]
            if health.failures and now >= health.until and not health.is_probed:
                health.is_probed = True
                due.append(endpoint)
        return due
