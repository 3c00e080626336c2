"""One endpoint's connection."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc import ChannelConnectivity, StatusCode

from ._proto.baton.v1.inference_pb2_grpc import InferenceStub
from .security import TlsConfig

if TYPE_CHECKING:
    from ._proto.baton.v1.inference_pb2_grpc import InferenceAsyncStub

_HEALTH = "/grpc.health.v1.Health/Check"
#: The messages of `grpc.health.v1` have one field each; a package for them would be larger.
_CHECK_INFERENCE = b"\x0a\x12baton.v1.Inference"
_SERVING = b"\x08\x01"

#: All addresses of a name, in turn.
_SERVICE_CONFIG: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
#: Log-probabilities of a long prompt are more than gRPC's 4 MiB.
_MAX_MESSAGE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds until a connection counts as broken."""

    #: Until a new one speaks HTTP/2; a stopped process lets its kernel take connections.
    connect: float = 2.0
    #: Without a word while a call is open, until the server is asked for a sign, ...
    keepalive: float = 2.0
    #: ... and until it must have come.
    keepalive_timeout: float = 2.0


def _options(patience: Patience, tls: TlsConfig | None) -> list[tuple[str, str | int]]:
    connect_ms, keepalive_timeout_ms = (
        int(each * 1e3) for each in (patience.connect, patience.keepalive_timeout)
    )
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.keepalive_time_ms", int(patience.keepalive * 1e3)),
        ("grpc.keepalive_timeout_ms", keepalive_timeout_ms),
        # gRPC also sends pings to measure bandwidth, which have a minute, and keep-alive waits for
        # one that is under way.
        ("grpc.http2.ping_timeout_ms", keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 0),
        # A silent stream may be asked for signs for as long as it is silent.
        ("grpc.http2.max_pings_without_data", 0),
        # A router that comes back is found at once. The least is also what one attempt may take.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", connect_ms),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


class Endpoint:
    """An address, or a name that stands for several."""

    def __init__(self, target: str, tls: TlsConfig | None, patience: Patience) -> None:
        self.target = target
        self._tls = tls
        self._patience = patience
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """Made at first use, because it belongs to the event loop that it is made in."""
        if self._channel is None:
            options = _options(self._patience, self._tls)
            if self._tls is None:
                self._channel = grpc.aio.insecure_channel(self.target, options)
            else:
                credentials = self._tls.credentials()
                self._channel = grpc.aio.secure_channel(self.target, credentials, options)
        return self._channel

    @property
    def stub(self) -> InferenceAsyncStub:
        """The service's methods there."""
        return InferenceStub(self.channel)

    async def is_ready(self) -> bool:
        """Whether there is a connection that speaks HTTP/2, or soon is."""
        if self.channel.get_state(try_to_connect=True) is ChannelConnectivity.READY:
            return True
        try:
            return await asyncio.wait_for(self._connect(), self._patience.connect)
        except asyncio.TimeoutError:
            return False

    async def _connect(self) -> bool:
        state = self.channel.get_state(try_to_connect=True)
        while state is not ChannelConnectivity.READY:
            if state in (ChannelConnectivity.TRANSIENT_FAILURE, ChannelConnectivity.SHUTDOWN):
                return False
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)
        return True

    async def serves(self) -> bool:
        """Whether it says that it does, by `grpc.health.v1`, or is up and knows no such service."""
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(_HEALTH)
        try:
            if not await self.is_ready():
                return False
            answer = await check(_CHECK_INFERENCE, timeout=self._patience.connect)
        except grpc.aio.AioRpcError as error:
            return error.code() is StatusCode.UNIMPLEMENTED
        return answer == _SERVING

    async def close(self) -> None:
        """Ends its calls."""
        if self._channel is not None:
            await self._channel.close()
