"""What can go wrong: one class for each thing a program may do about it."""

from __future__ import annotations

from datetime import timedelta

from grpc import StatusCode

from ._status import Refused


class BatonError(Exception):
    """Why a request was refused or ended without its end; the base of all below.

    Attributes:
        message: What was given and what is allowed, in a sentence.
        code: gRPC's status code; None when the client itself found the fault.
        reason: A stable name such as `AT_CAPACITY`, what programs decide by; empty when it wasn't
            Baton that spoke, but the transport or a proxy.
        request_id: The `x-request-id` the request was sent with, as the cluster's logs have it.
        retry_after: When asking again may help; None when it won't, or nobody knows.
        field: The field of the request that is wrong, such as `sampling.top_p`.
    """

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str = "",
        request_id: str = "",
        retry_after: timedelta | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.request_id = request_id
        self.retry_after = retry_after
        self.field = field


class InvalidRequest(BatonError):
    """The request is wrong, and will be each time."""


class ModelNotFound(InvalidRequest):
    """No node serves this model; `models()` lists those that are."""


class ContextTooLong(InvalidRequest):
    """Prompt and answer are longer than the model's context."""


class Unauthenticated(BatonError):
    """Who asks isn't known, or mayn't."""


class Overloaded(BatonError):
    """The cluster is full, and was so at each attempt."""


class Unavailable(BatonError):
    """Nobody can serve it now: no router was reached, or no node is there."""


class DeadlineExceeded(BatonError, TimeoutError):
    """The request's deadline passed, its client's or the router's own."""


class FirstTokenTimeout(BatonError, TimeoutError):
    """No token came within `first_token_within`; the request is cancelled."""


class Cancelled(BatonError):
    """Somebody cancelled it by its id, or this client did while it was read."""


class NodesDied(BatonError):
    """Nodes died while they worked on this request, so it goes to no other. Don't send it again."""


class ProtocolError(BatonError):
    """The stream said what it mustn't, such as a token twice; don't use what came of it."""


class Internal(BatonError):
    """A fault of the server."""


_KINDS: dict[StatusCode, type[BatonError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequest,
    StatusCode.NOT_FOUND: InvalidRequest,
    StatusCode.UNIMPLEMENTED: InvalidRequest,
    StatusCode.OUT_OF_RANGE: InvalidRequest,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.PERMISSION_DENIED: Unauthenticated,
    StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.CANCELLED: Cancelled,
}

_REASONS: dict[str, type[BatonError]] = {
    "MODEL_NOT_FOUND": ModelNotFound,
    "CONTEXT_TOO_LONG": ContextTooLong,
    "NODES_DIED": NodesDied,
}


def error_of(refused: Refused, request_id: str) -> BatonError:
    """The error that a status stands for."""
    # A broken connection is nobody's fault that a caller could tell from another.
    kind = Unavailable if refused.is_broken else _KINDS.get(refused.code, Internal)
    return _REASONS.get(refused.reason, kind)(
        refused.message,
        code=refused.code,
        reason=refused.reason,
        request_id=request_id,
        retry_after=refused.retry_after,
        field=refused.field,
    )
