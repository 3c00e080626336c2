"""The examples run as they are."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
from cluster import Cluster, with_package

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATIENCE = 30.0

#: What each says when it worked.
SAYS = {
    "chat.py": r"> And if they drop it\?\n.+\n\nUsage\(prompt_tokens=",
    "stream.py": r"(length|stop) 0:00:0\d",
    "resilient.py": r"\n[0-9a-f]{32}: went on 0 times\n$",
    "tools.py": r'weather\(\{"city":\s*"(Paris|Rome)",\s*"unit":',
    "structured.py": r": \d+ km\n(city|river)\n$",
    "async_many.py": r"^64 of 64 answered, \d+ tokens\n$",
}


def test_all_are_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
async def test_it_runs(cluster: Cluster, name: str) -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *cluster.addresses),
        env=with_package(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await asyncio.wait_for(run.communicate(), PATIENCE)
    assert run.returncode == 0, errors.decode()
    assert re.search(SAYS[name], said.decode()), said.decode()
    assert not errors, errors.decode()
