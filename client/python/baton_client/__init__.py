"""Client of Baton, over gRPC: streams of tokens that outlive their routers.

`AsyncClient` is for asyncio, `Client` for everybody else; both have the same methods.
"""

from ._channel import Patience
from ._stream import AsyncStream
from .aio import AsyncClient, Model, Tokens
from .answer import Answer, Choice
from .errors import (
    BatonError,
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    FirstTokenTimeout,
    Internal,
    InvalidRequest,
    ModelNotFound,
    NodesDied,
    Overloaded,
    ProtocolError,
    Unauthenticated,
    Unavailable,
)
from .events import (
    Chunk,
    Complete,
    Event,
    FinishReason,
    Started,
    Timings,
    TokenLogprobs,
    ToolCallPiece,
    TopLogprob,
    Usage,
)
from .messages import Message, Tool, ToolCall, ToolChoice
from .options import Duration, RequestOptions, Slo
from .retry import RetryPolicy
from .sampling import Sampling
from .security import TlsConfig
from .sync import Client, Stream

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "BatonError",
    "Cancelled",
    "Choice",
    "Chunk",
    "Client",
    "Complete",
    "ContextTooLong",
    "DeadlineExceeded",
    "Duration",
    "Event",
    "FinishReason",
    "FirstTokenTimeout",
    "Internal",
    "InvalidRequest",
    "Message",
    "Model",
    "ModelNotFound",
    "NodesDied",
    "Overloaded",
    "Patience",
    "ProtocolError",
    "RequestOptions",
    "RetryPolicy",
    "Sampling",
    "Slo",
    "Started",
    "Stream",
    "Timings",
    "TlsConfig",
    "TokenLogprobs",
    "Tokens",
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolChoice",
    "TopLogprob",
    "Unauthenticated",
    "Unavailable",
    "Usage",
]
