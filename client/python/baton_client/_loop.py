"""The event loop behind the synchronous client."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LEAVING = 2.0


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="baton-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for it; whoever is interrupted meanwhile, as by Ctrl-C, cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the thread, before the interpreter takes away what it runs on."""
        if self.process == os.getpid():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_LEAVING)


_lock = threading.Lock()
_shared: LoopThread | None = None


def shared() -> LoopThread:
    """The one of this process. A child that was forked has none of its parent's threads."""
    global _shared  # noqa: PLW0603 -- one thread for all clients is the point
    with _lock:
        if _shared is None or _shared.process != os.getpid():
            _shared = LoopThread()
            atexit.register(_shared.stop)
        return _shared
