"""Fakes and clusters for the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc
import pytest
import pytest_asyncio
from cluster import Cluster
from fake import Router

from baton_client import AsyncClient, RetryPolicy
from baton_client._proto.baton.v1 import inference_pb2_grpc as rpc

StartRouter = Callable[..., Awaitable[Router]]
Connect = Callable[..., AsyncClient]

#: Pauses that no test notices.
QUICK = RetryPolicy(base=0.002, longest=0.01)


@pytest_asyncio.fixture
async def start_router() -> AsyncIterator[StartRouter]:
    """Starts fake routers, which end with the test."""
    servers = []

    async def start(
        name: str = "fake", credentials: grpc.ServerCredentials | None = None
    ) -> Router:
        router, server = Router(name), grpc.aio.server()
        rpc.add_InferenceServicer_to_server(router, server)
        check: grpc.RpcMethodHandler[bytes, bytes]
        check = grpc.unary_unary_rpc_method_handler(router.check)
        health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
        server.add_generic_rpc_handlers((health,))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        servers.append(server)
        router.address = f"127.0.0.1:{port}"
        return router

    yield start
    for server in servers:
        await server.stop(None)


@pytest_asyncio.fixture
async def router(start_router: StartRouter) -> Router:
    return await start_router()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """Clients of routers, closed with the test."""
    clients: list[AsyncClient] = []

    def make(
        *routers: Router | str, retries: RetryPolicy = QUICK, **options: object
    ) -> AsyncClient:
        addresses = [each if isinstance(each, str) else each.address for each in routers]
        client = AsyncClient(addresses, retries=retries, **options)  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One that no test harms."""
    with Cluster.start(routers=2) as started:
        yield started
