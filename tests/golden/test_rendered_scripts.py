"""Rendered job scripts, word for word; and what shellcheck says of each.

After a change that is meant, write them anew with ``GOLDEN_UPDATE=1 pytest tests/golden`` and read
the difference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.rendering.renderer import Renderer
from tests.unit.rendering.samples import build_profile, build_request

GOLDEN = Path(__file__).parent
KINDS = ("slurm", "pbs", "gridengine")

HOSTILE = 'it\'s "$(id)" `id` ${HOME} ; & | * ? ~ \\ é'

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "modules": (
        {
            "modules": ["StdEnv/2023", "gcc/12.3", "python/3.11"],
            "setup": ["source /opt/site/setup.sh", 'export OMP_NUM_THREADS="$SLURM_CPUS_ON_NODE"'],
            "command": ["/opt/jupyter/bin/jupyterhub-singleuser"],
            "arguments": ["--HubOAuth.cache_max_age=3600"],
            "interface": "notebook",
        },
        {"start_directory": "projects/ocean"},
    ),
    "hostile": (
        {
            "command": ["apptainer", "exec", HOSTILE, "jupyterhub-singleuser"],
            "arguments": ["", "-", "--", "a b", "$(touch /tmp/x)", HOSTILE],
            "agent_python": HOSTILE,
        },
        {"start_directory": HOSTILE, "directory": f"/home/{HOSTILE}", "agent_path": HOSTILE},
    ),
}


def render(kind: str, case: str) -> str:
    environment, request = CASES[case]
    profile = build_profile(template=f"{kind}/notebook.sh.j2", **environment)
    return Renderer([]).render(profile, build_request(**request)).text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_rendered_script_is_the_golden_one(kind: str, case: str) -> None:
    path = GOLDEN / kind / f"{case}.sh"
    rendered = render(kind, case)
    if os.environ.get("GOLDEN_UPDATE"):
        path.write_text(rendered)
    assert rendered == path.read_text()


def test_every_golden_file_has_its_case() -> None:
    files = {f"{path.parent.name}/{path.stem}" for path in GOLDEN.glob("*/*.sh")}
    assert files == {f"{kind}/{case}" for kind in KINDS for case in CASES}


@pytest.mark.skipif(
    shutil.which("shellcheck") is None and not os.environ.get("CI"),
    reason="shellcheck is not installed",
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_shellcheck_has_nothing_to_say(kind: str, case: str) -> None:
    # SC1091: the set-up file is the site's. SC2016: that "$" does not expand is what is wanted.
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "--exclude=SC1091,SC2016", "-"],
        input=render(kind, case),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
