"""gRPC statuses with `google.rpc` details, read into what the client decides by.

`grpcio-status` would do the same in more code, and ties the version of protobuf to its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

DETAILS = "grpc-status-details-bin"
DOMAIN = "baton"

#: What a connection that broke says, depending on where and when it did. Baton itself gives its
#: statuses a reason.
_BROKEN = frozenset(
    {StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.CANCELLED}
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a call ended without its end."""

    code: StatusCode
    message: str
    #: Empty when it wasn't Baton that spoke.
    reason: str = ""
    retry_after: timedelta | None = None
    field: str | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the transport broke, which says nothing about the request."""
        return not self.reason and self.code in _BROKEN

    @property
    def is_endpoints(self) -> bool:
        """Whether it is this endpoint that fails, so that another one may not."""
        return self.is_broken or self.reason == "SHUTTING_DOWN"

    @property
    def is_worth_another(self) -> bool:
        """Whether the same request may succeed later, or elsewhere."""
        if self.code is StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_after is not None
        return self.is_broken or self.code is StatusCode.UNAVAILABLE


#: A stream that ended well, but before its end.
CUT_SHORT = Refused(StatusCode.UNAVAILABLE, "the stream ended before its answer was complete")


def refused(error: grpc.aio.AioRpcError) -> Refused:
    """What a call failed with."""
    return parse(error.code(), error.details() or "", error.trailing_metadata() or ())


def parse(code: StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]]) -> Refused:
    """A status's code, text and trailing metadata; details that can't be read count as absent."""
    values = [value for key, value in metadata if key == DETAILS and isinstance(value, bytes)]
    status = status_pb2.Status()
    try:
        status.ParseFromString(values[0] if values else b"")
        return _with_details(code, message, status)
    except DecodeError:
        return Refused(code, message)


def _with_details(code: StatusCode, message: str, status: status_pb2.Status) -> Refused:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    retry_after: timedelta | None = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
        else:
            # Each message takes what is its own.
            _ = detail.Unpack(info) or detail.Unpack(bad)
    is_ours = info.domain == DOMAIN or info.domain.startswith(f"{DOMAIN}.")
    violations = bad.field_violations
    return Refused(
        code,
        message,
        reason=info.reason if is_ours else "",
        retry_after=retry_after,
        field=violations[0].field if violations else None,
    )
