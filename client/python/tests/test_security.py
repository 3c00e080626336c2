"""Who the server is, and who asks."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest
import trustme
from conftest import Connect, StartRouter
from fake import Router

from baton_client import AsyncClient, Patience, TlsConfig, Unavailable
from baton_client.security import is_loopback, parse_endpoint


def server_credentials(ca: trustme.CA, *, mutual: bool = False) -> grpc.ServerCredentials:
    certificate = ca.issue_cert("127.0.0.1", "baton.test")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    pair = (certificate.private_key_pem.bytes(), chain)
    roots = ca.cert_pem.bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=mutual)


async def test_tls_knows_whom_it_trusts(start_router: StartRouter, connect: Connect) -> None:
    ca = trustme.CA()
    router = await start_router(credentials=server_credentials(ca))
    trusting = TlsConfig(ca=ca.cert_pem.bytes())
    assert await connect(router, tls=trusting).models()
    for distrusting in (TlsConfig(ca=trustme.CA().cert_pem.bytes()), None):
        with pytest.raises(Unavailable):
            await connect(router, tls=distrusting).models()


async def test_names_count(start_router: StartRouter, connect: Connect) -> None:
    ca = trustme.CA()
    router = await start_router(credentials=server_credentials(ca))
    pem = ca.cert_pem.bytes()
    assert await connect(router, tls=TlsConfig(ca=pem, server_name="baton.test")).models()
    with pytest.raises(Unavailable):
        await connect(router, tls=TlsConfig(ca=pem, server_name="other.test")).models()


async def test_mutual_tls(start_router: StartRouter, connect: Connect, tmp_path: Path) -> None:
    ca = trustme.CA()
    router = await start_router(credentials=server_credentials(ca, mutual=True))
    files = {name: tmp_path / name for name in ("ca", "certificate", "key")}
    ours = ca.issue_cert("client.test")
    ca.cert_pem.write_to_path(str(files["ca"]))
    ours.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    ours.private_key_pem.write_to_path(str(files["key"]))
    mutual = TlsConfig(files["ca"], files["certificate"], files["key"])
    answer = await connect(router, tls=mutual).generate("sim", "Once")
    assert answer.text
    with pytest.raises(Unavailable):
        await connect(router, tls=TlsConfig(ca=files["ca"])).models()
    with pytest.raises(ValueError, match="go together"):
        TlsConfig(certificate=files["certificate"])
    assert str(files["key"]) not in repr(mutual)


async def test_tokens_are_asked_for_each_time(router: Router, connect: Connect) -> None:
    given = iter(["one", "two"])

    async def present() -> str:
        return next(given)

    client = connect(router, token=present)
    await client.models()
    await client.generate("sim", "Once")
    await connect(router, token="three").models()
    await connect(router, token=lambda: "four").models()
    told = [seen.metadata["authorization"] for seen in router.seen]
    assert told == [f"Bearer {each}" for each in ("one", "two", "three", "four")]


def test_tokens_stay_on_the_machine_without_tls() -> None:
    for target in ("baton.example:8000", "10.0.0.1:8000", "dns:///baton.example:8000"):
        with pytest.raises(ValueError, match="in the clear"):
            AsyncClient(["127.0.0.1:8000", target], token="secret")
        AsyncClient(target, token="secret", insecure=True)
        AsyncClient(target, token="secret", tls=TlsConfig())
        AsyncClient(target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:8000", True),
        ("127.9.9.9:1", True),
        ("localhost:8000", True),
        ("[::1]:8000", True),
        ("unix:/run/baton.sock", True),
        ("localhost.example:8000", False),
        ("[2001:db8::1]:8000", False),
        ("192.168.0.1:8000", False),
    ],
)
def test_loopback(target: str, expected: bool) -> None:
    assert is_loopback(target) is expected


def test_endpoints_are_parsed() -> None:
    assert parse_endpoint("http://127.0.0.1:8000/", None) == "127.0.0.1:8000"
    assert parse_endpoint("https://baton:443", TlsConfig()) == "baton:443"
    assert parse_endpoint("dns:///baton:8000", None) == "dns:///baton:8000"
    assert parse_endpoint("unix:/run/baton.sock", None) == "unix:/run/baton.sock"
    for text, tls in (("https://baton:443", None), ("http://baton:80", TlsConfig())):
        with pytest.raises(ValueError, match="tls"):
            parse_endpoint(text, tls)
    with pytest.raises(ValueError, match="names no port"):
        parse_endpoint("baton", None)
    with pytest.raises(ValueError, match="no endpoint"):
        AsyncClient([])


async def test_all_addresses_of_a_name_are_used(
    start_router: StartRouter, connect: Connect
) -> None:
    routers = [await start_router("a"), await start_router("b")]
    # As a name would that stands for both.
    name = "ipv4:" + ",".join(each.address for each in routers)
    client = connect(name)
    for _ in range(50):
        await client.models()
        if all(each.seen for each in routers):
            break
    assert all(each.seen for each in routers)


async def test_one_that_accepts_and_says_nothing_is_passed_over(
    router: Router, connect: Connect
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        client = connect(address, router, patience=Patience(connect=0.2))
        assert [model.id for model in await client.models()] == ["fake"]
