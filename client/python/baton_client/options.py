"""What goes with a request beside the request: on whose behalf, how fast, in which trace."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias, TypedDict

#: A `timedelta`, or seconds.
Duration: TypeAlias = timedelta | float

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Slo:
    """What counts as in time: by it requests are placed and ordered, and refused early."""

    #: Until the first token.
    ttft: Duration | None = None
    #: Between tokens after it, on the mean.
    tpot: Duration | None = None


class RequestOptions(TypedDict, total=False):
    """What each request may bring, by name.

    Attributes:
        tenant: On whose behalf it comes; tenants share what there is while requests wait.
        service_class: One of the router's classes.
        slo: The request's objectives.
        deadline: From now until the request ends with `DeadlineExceeded`, all attempts together.
        first_token_within: From now until it ends with `FirstTokenTimeout` if no token came.
        request_id: Its name in the cluster's logs, up to 128 printable characters; drawn if left
            out.
        trace_parent: A `traceparent` of W3C Trace Context. Left out: the current span's, where
            `opentelemetry` is installed.
    """

    tenant: str
    service_class: str
    slo: Slo
    deadline: Duration
    first_token_within: Duration
    request_id: str
    trace_parent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of one request, from the moment it was made."""

    tenant: str | None = None
    service_class: str | None = None
    slo: Slo = field(default_factory=Slo)
    deadline: Duration | None = None
    first_token_within: Duration | None = None
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    trace_parent: str | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def ends_at(self) -> float | None:
        """When the deadline is, by `time.monotonic`."""
        return None if self.deadline is None else self.since + seconds(self.deadline)

    @property
    def first_token_at(self) -> float | None:
        """When the first token must be there."""
        within = self.first_token_within
        return None if within is None else self.since + seconds(within)

    def metadata(self) -> Metadata:
        """What every attempt is sent with, so that logs can be joined."""
        given = {
            "x-request-id": self.request_id,
            "x-tenant-id": self.tenant,
            "x-slo-class": self.service_class,
            "x-slo-ttft-ms": _milliseconds(self.slo.ttft),
            "x-slo-tpot-ms": _milliseconds(self.slo.tpot),
        }
        named = tuple((name, value) for name, value in given.items() if value is not None)
        return named + _trace(self.trace_parent)


def seconds(duration: Duration) -> float:
    """A duration as seconds."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    return float(duration)


def _milliseconds(duration: Duration | None) -> str | None:
    return None if duration is None else f"{seconds(duration) * 1e3:.3f}"


def _trace(trace_parent: str | None) -> Metadata:
    if trace_parent is not None:
        return (("traceparent", trace_parent),)
    try:
        from opentelemetry import propagate  # noqa: PLC0415 -- an optional extra
    except ImportError:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    # Baggage may be private to whom it was made for, and nobody in the cluster reads it.
    return tuple((name, carrier[name]) for name in ("traceparent", "tracestate") if name in carrier)
