"""The agent runs on whatever Python a compute node has."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.remote.bundle import build_agent
from tests.unit.remote.agents import AGENT

SOURCES = [path.read_text("utf-8") for path in sorted(AGENT.rglob("*.py"))]


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_python_3_8(source: str) -> None:
    ast.parse(source, feature_version=(3, 8))


def test_it_imports_only_the_standard_library_and_itself() -> None:
    names = set()
    for node in (node for source in SOURCES for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            names |= {node.module or ""} if node.level == 0 else set()
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"landfall_agent"}


def test_it_packs_to_the_same_bytes_every_time() -> None:
    assert build_agent() == build_agent()
    assert len(build_agent()) < 20_000


def interpreters() -> list[str]:
    """This Python, and whichever others of the supported range are installed."""
    names = [sys.executable, *(f"python3.{minor}" for minor in range(8, 15))]
    found = [path for name in names if (path := shutil.which(name))]
    return [
        path for path in found if not subprocess.run([path, "-V"], capture_output=True).returncode
    ]


@pytest.mark.parametrize("python", interpreters())
def test_it_runs_on(python: str, tmp_path: Path) -> None:
    # In a home that is not there it says so: everything up to there has run.
    packed = tmp_path / "agent.pyz"
    packed.write_bytes(build_agent())
    place = [f"--directory={tmp_path}", f"--socket-directory={tmp_path}"]
    done = subprocess.run(
        [python, "-I", str(packed), "--launch-id=x", *place, "--", "x"],
        env={"PATH": os.environ["PATH"], "HOME": "/no/such/home"},
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("landfall: error home_missing:")


def test_an_older_python_is_told(tmp_path: Path) -> None:
    script = tmp_path / "old.py"
    script.write_text(
        "import runpy, sys\nsys.version_info = (3, 7)\n"
        f"sys.argv = ['agent']\nrunpy.run_path({str(AGENT)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 73
    assert done.stderr.startswith("landfall: error agent_python_old:")
