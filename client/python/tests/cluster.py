"""Clusters of real processes: `baton up` with the simulated engine."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PACKAGE = Path(__file__).resolve().parents[1]
BUILT = PACKAGE.parents[1] / "target" / "debug" / "baton"

#: A debug build on a busy machine serves within seconds.
START = 60.0


@dataclass
class Cluster:
    """A running one; leaving `with` ends it."""

    up: subprocess.Popen[str]
    addresses: list[str]
    folder: tempfile.TemporaryDirectory[str]

    @classmethod
    def start(
        cls, *, routers: int = 1, prefill: int = 1, decode: int = 2, decode_us: float = 500.0
    ) -> Cluster:
        """Starts one on free ports, and waits until it serves."""
        folder = tempfile.TemporaryDirectory(prefix="baton-client-")
        up = subprocess.Popen(
            [
                *(baton(), "up", "--engine=sim", "--no-demo", "--port=0", "--control-port=0"),
                *(f"--routers={routers}", f"--prefill={prefill}", f"--decode={decode}"),
                *("--kv-size=64MiB", f"--node-set=engine.profile.decode_us={decode_us}"),
                *("--data-dir", f"{folder.name}/data", "--log-dir", f"{folder.name}/logs"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert up.stdout is not None
        return cls(up, _serving_at(up, up.stdout), folder)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        # Its children end with it, but not those that are stopped.
        for pid in self._children():
            os.kill(pid, signal.SIGCONT)
        self.up.kill()
        self.up.wait()
        self.folder.cleanup()

    def signal_router(self, address: str, sent: signal.Signals) -> None:
        """Sends a signal to the router that serves there."""
        os.kill(self._child(address), sent)

    def kill_node(self, name: str) -> None:
        """Kills a node, such as `decode-1`."""
        os.kill(self._child(name), signal.SIGKILL)

    def _child(self, word: str) -> int:
        """The process that was started with such an argument."""
        children = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in self._children()}
        found = [pid for pid, line in children.items() if word in line.split("\0")]
        assert len(found) == 1, f"{word} is one of {children}"
        return found[0]

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self.up.pid}/task").glob("*/children")
        return [int(pid) for children in tasks for pid in children.read_text().split()]


def with_package() -> dict[str, str]:
    """The environment of a program that uses this package, installed or not."""
    path = [str(PACKAGE), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def baton() -> str:
    """The program under test: `BATON_BIN`, or what `cargo build -p baton` made."""
    program = os.environ.get("BATON_BIN", str(BUILT))
    assert Path(program).is_file(), f"{program} isn't built; run `cargo build -p baton` first"
    return program


def _serving_at(up: subprocess.Popen[str], output: IO[str]) -> list[str]:
    """Where it serves, as it says; somebody must read on afterwards, or the pipe fills."""
    said: list[str] = []
    addresses: list[str] = []
    is_told = threading.Event()

    def read() -> None:
        for line in output:
            said.append(line)
            if line.startswith("Serving"):
                addresses.extend(
                    word.removeprefix("http://") for word in line.split() if "://" in word
                )
                is_told.set()
        is_told.set()

    threading.Thread(target=read, daemon=True).start()
    if not is_told.wait(START) or not addresses:
        up.kill()
        raise AssertionError(f"the cluster doesn't serve: {''.join(said)}")
    return addresses
