"""The synchronous client: the same, from threads."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading

import pytest
from cluster import with_package
from fake import LENGTH, End, Hang, Refuse, Router
from grpc import StatusCode

from baton_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    Chunk,
    Client,
    FirstTokenTimeout,
    InvalidRequest,
    Message,
    Stream,
)

PATIENCE = 10.0
#: Sooner than keep-alive would have it.
HANGING_UP = 3.0


async def in_thread(work: object) -> object:
    return await asyncio.wait_for(asyncio.to_thread(work), PATIENCE)  # type: ignore[arg-type]


async def test_it_does_what_the_other_does(router: Router) -> None:
    router.acts.extend([End(3), End(2)])

    def work() -> None:
        with Client(router.address) as client:
            with client.stream("sim", "Once") as stream:
                assert sum(isinstance(event, Chunk) for event in stream) == LENGTH
                assert stream.resumed == 2
                assert stream.answer().resumed == 2
                assert stream.request_id == "fake-3"
            text = "".join(client.chat_stream("sim", [Message.user("Hi")]).text())
            assert text == client.chat("sim", [Message.user("Hi")]).text
            assert client.generate("sim", "Once").text == text
            assert [model.id for model in client.models(hedge_after=5)] == ["fake"]
            assert client.detokenize("sim", client.tokenize("sim", "abc").token_ids) == "abc"
            assert client.cancel("fake")

    await in_thread(work)


async def test_errors_are_the_same(router: Router) -> None:
    router.acts.extend([Refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"), Hang(1)])

    def work() -> None:
        with Client(router.address) as client:
            with pytest.raises(InvalidRequest):
                client.generate("sim", "Once")
            with pytest.raises(FirstTokenTimeout):
                client.generate("sim", "Once", first_token_within=0.1)

    await in_thread(work)


@pytest.mark.parametrize("how", ["with", "break", "thread"])
async def test_leaving_cancels(router: Router, how: str) -> None:
    router.acts.append(Hang(2))

    def work() -> None:
        with Client(router.address) as client:
            stream = client.stream("sim", "Once")
            assert not isinstance(next(stream), Chunk)
            assert isinstance(next(stream), Chunk)
            if how == "with":
                with stream:
                    pass
            elif how == "break":
                del stream
                gc.collect()
            else:
                threading.Timer(0.05, stream.close).start()
                with pytest.raises(Cancelled):
                    next(stream)
            # The client is still open: it is the stream that was left.
            asyncio.run_coroutine_threadsafe(router.hung_up.wait(), loop).result(HANGING_UP)

    loop = asyncio.get_running_loop()
    await in_thread(work)


async def test_threads_share_a_client(router: Router) -> None:
    with Client(router.address) as client:
        answers = await asyncio.gather(
            *(asyncio.to_thread(client.generate, "sim", "Once") for _ in range(16))
        )
    assert {answer.token_ids for answer in answers} == {answers[0].token_ids}


async def test_a_program_that_forgets_to_close_ends(router: Router) -> None:
    program = (
        "from baton_client import Client\n"
        f"client = Client({router.address!r})\n"
        "stream = client.stream('sim', 'Once')\n"
        "next(stream)\n"
        "print(len(client.generate('sim', 'Once').token_ids))\n"
    )
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "faulthandler", "-c", program),
        env=with_package(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, errors = await asyncio.wait_for(run.communicate(), PATIENCE)
    assert (said, run.returncode) == (f"{LENGTH}\n".encode(), 0), errors.decode()
    assert b"Traceback" not in errors, errors.decode()


async def test_ctrl_c_cancels(router: Router) -> None:
    router.acts.append(Hang(2))
    program = (
        "import signal\n"
        "from baton_client import Client, Chunk\n"
        # As in a terminal: who runs in the background is born deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"client = Client({router.address!r})\n"
        "stream = client.stream('sim', 'Once')\n"
        "try:\n"
        "    for event in stream:\n"
        "        if isinstance(event, Chunk): print('waiting', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    input()\n"
    )
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env=with_package(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stdout is not None
    assert await asyncio.wait_for(run.stdout.readline(), PATIENCE) == b"waiting\n"
    run.send_signal(signal.SIGINT)
    await asyncio.wait_for(router.hung_up.wait(), HANGING_UP)
    _, errors = await asyncio.wait_for(run.communicate(b"\n"), PATIENCE)
    assert (errors, run.returncode) == (b"", 0)


@pytest.mark.parametrize(("ours", "theirs"), [(Client, AsyncClient), (Stream, AsyncStream)])
def test_both_have_the_same_methods(ours: type, theirs: type) -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {
            name.removeprefix("a") if name == "aclose" else name: list(
                inspect.signature(member).parameters
            )
            for name, member in members
            if not name.startswith("_")
        }

    assert methods(ours) == methods(theirs)
