"""The examples run as they are."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
from cluster import Cluster, with_package

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
#: Each has one program.
DOCUMENTS = [EXAMPLES.parent / "README.md", EXAMPLES.parents[2] / "docs" / "sdk.md"]
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
    said = await run(str(EXAMPLES / name), *cluster.addresses)
    assert re.search(SAYS[name], said), said


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_documents_are_right(cluster: Cluster, document: Path) -> None:
    text = await asyncio.to_thread(document.read_text)
    _, *blocks = text.split("```python\n")
    (program,) = (block.partition("```")[0] for block in blocks)
    for port, address in zip((8000, 8002), cluster.addresses, strict=True):
        program = program.replace(f"127.0.0.1:{port}", address)
    assert await run("-c", program), "it says something"


async def run(*args: str) -> str:
    """Runs a program to its good end, and returns what it said."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, *args),
        env=with_package(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await asyncio.wait_for(program.communicate(), PATIENCE)
    assert program.returncode == 0, errors.decode()
    assert not errors, errors.decode()
    return said.decode()
