"""Who the server is, and who asks."""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc

#: A bearer token, or what gives the present one; it is asked at each attempt.
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

Pem: TypeAlias = bytes | str | Path


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS, mutual if there is a certificate. PEM, as bytes or as the path of a file."""

    #: Whom to trust. None: whom gRPC trusts by itself.
    ca: Pem | None = None
    #: The client's own, with its chain, ...
    certificate: Pem | None = None
    #: ... and its private key.
    key: Pem | None = field(default=None, repr=False)
    #: The name on the server's certificate, if it isn't the endpoint's host.
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key go together; one of them is left out")

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC wants them; files are read now."""
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.certificate))


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    return Path(source).read_bytes()


async def authorization(token: Token | None) -> tuple[tuple[str, str], ...]:
    """The metadata that says who asks."""
    if token is None:
        return ()
    present = token() if callable(token) else token
    if inspect.isawaitable(present):
        present = await present
    return (("authorization", f"Bearer {present}"),)


def parse_endpoint(text: str, tls: TlsConfig | None) -> str:
    """The target of `host:port`, of the URL that a cluster prints, or of any gRPC name.

    Raises:
        ValueError: It names no port, or its scheme and TLS contradict each other.
    """
    scheme, _, rest = text.rpartition("://")
    if scheme == "https" and tls is None:
        raise ValueError(f"{text} asks for TLS; pass tls=TlsConfig(…)")
    if scheme == "http" and tls is not None:
        raise ValueError(f"{text} contradicts tls; write https:// or the address alone")
    if scheme not in ("", "http", "https"):
        # dns://, ipv4: and their like are gRPC's business.
        return text
    target = rest.rstrip("/")
    if target.startswith(("dns:", "unix:", "ipv4:", "ipv6:", "xds:")):
        return target
    if not target.rpartition(":")[2].isdigit():
        raise ValueError(f"{text!r} names no port; write host:port")
    return target


def is_loopback(target: str) -> bool:
    """Whether what is sent there never leaves this machine."""
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
