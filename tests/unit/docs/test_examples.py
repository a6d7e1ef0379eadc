"""The examples of the documentation are accepted by the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.identity.table import Table
from gateway.profiles.loading import load_profile
from gateway.rendering.renderer import Renderer, shipped_template_directory
from gateway.settings import load_settings
from gateway.signer.allow_list import AllowListFile
from gateway.yaml_files import load_model
from tests.unit.docs.source import DOCS
from tests.unit.rendering.samples import build_profile, build_request


def find_example(page: str, language: str, beginning: str) -> str:
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    found: list[str] = [block for block in blocks if block.startswith(beginning)]
    assert len(found) == 1, f"{page} has {len(found)} examples that begin with {beginning!r}"
    return found[0]


def test_cluster_profile(tmp_path: Path) -> None:
    (tmp_path / "birch_known_hosts").touch()
    path = tmp_path / "birch.yml"
    path.write_text(find_example("describe-a-cluster.md", "yaml", "# yaml-language"))
    profile = load_profile(path)
    assert profile.roles.tunnel is not None
    assert set(profile.partitions) == {"interactive", "gpu"}


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yml"
    path.write_text(find_example("install.md", "yaml", "state_directory:"))
    settings = load_settings(path)
    assert settings.signer_socket == Path("/run/landfall-signer/signer.sock")


def test_table_of_logins(tmp_path: Path) -> None:
    path = tmp_path / "people.yml"
    path.write_text(find_example("install.md", "yaml", "people:"))
    assert load_model(path, Table).people[0].clusters["birch"].uid == 104312


def test_allow_list(tmp_path: Path) -> None:
    path = tmp_path / "allow.yml"
    path.write_text(find_example("install.md", "yaml", "clusters:"))
    path.chmod(0o600)
    assert AllowListFile(path).read().clusters["birch"].tunnel == {"gw-tunnel"}


@pytest.mark.parametrize("line", ["#SBATCH --constraint=skylake", "export SCRATCH='/scratch/"])
def test_job_template(tmp_path: Path, line: str) -> None:
    (tmp_path / "site.sh.j2").write_text(find_example("job-templates.md", "jinja", "{% extends"))
    profile = build_profile().model_copy(update={"job_template": "site.sh.j2"})
    renderer = Renderer([tmp_path, shipped_template_directory()])
    assert line in renderer.render(profile, build_request()).text
