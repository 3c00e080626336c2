"""The tree itself: stubs are made of the .proto files, types and style hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
COMMITTED = HERE / "baton_client" / "_proto"


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], cwd=HERE, capture_output=True, text=True, check=False
    )


def test_the_stubs_are_what_the_protos_say(tmp_path: Path) -> None:
    program = f"import generate, pathlib; generate.generate(pathlib.Path({str(tmp_path)!r}))"
    made = python("-c", program)
    assert made.returncode == 0, made.stderr

    def files(folder: Path) -> dict[str, str]:
        found = [each for each in folder.rglob("*") if each.suffix in (".py", ".pyi")]
        return {str(each.relative_to(folder)): each.read_text() for each in found}

    assert files(tmp_path) == files(COMMITTED), "run generate.py"


@pytest.mark.parametrize(
    "command", [("mypy",), ("ruff", "check", "."), ("ruff", "format", "--check", ".")]
)
def test_tools_find_nothing(command: tuple[str, ...]) -> None:
    found = python("-m", *command)
    assert found.returncode == 0, found.stdout + found.stderr
