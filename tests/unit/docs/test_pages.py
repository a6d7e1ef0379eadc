"""The documentation says what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click

from gateway.cli.main import main
from gateway.launch.states import EndReason, LaunchState
from gateway.observability.metrics import ConnectorMetrics
from gateway.rendering import job_log
from tests.unit.docs.source import DOCS, ROOT, find_reasons


def _read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_generated_files_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, f"run python docs/generate.py: {done.stdout}{done.stderr}"


def test_every_reason_is_explained() -> None:
    reasons = find_reasons()
    assert len(reasons) > 80, "the scan has lost its way"
    page = _read("troubleshooting.md")
    missing = {code: where for code, where in reasons.items() if f"`{code}`" not in page}
    assert not missing


def test_every_reason_that_is_explained_exists() -> None:
    explained = set(re.findall(r"^\| `([a-z_]+)`", _read("troubleshooting.md"), re.MULTILINE))
    known = set(find_reasons()) | set(job_log._WORDS) | {reason.value for reason in EndReason}
    assert explained, "the tables have another shape"
    assert not explained - known


def test_every_end_and_every_fault_of_a_job_log_is_explained() -> None:
    page = _read("troubleshooting.md")
    codes = {reason.value for reason in EndReason} | set(job_log._WORDS)
    assert not {code for code in codes if f"`{code}`" not in page}


def test_every_metric_is_listed() -> None:
    metrics = ConnectorMetrics([], states=[], end_reasons=[], roles=[])
    page = _read("operations.md")
    names = set()
    for metric in metrics.registry.collect():
        names.add(metric.name + ("_total" if metric.type == "counter" else ""))
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in page} == set()
    assert set(re.findall(r"^\| `(landfall_[a-z_]+)`", page, re.MULTILINE)) == names


def test_every_state_of_a_launch_is_described() -> None:
    page = _read("architecture.md")
    assert not [state for state in LaunchState if f"`{state}`" not in page]


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests").rglob("README.md")]
    links = [
        (page, target)
        for page in pages
        if "_build" not in page.parts
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    ]
    broken = [
        (page, target)
        for page, target in links
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert len(pages) > 30
    assert not broken


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _commands(below, f"{path} {name}")


def test_every_command_and_option_is_described() -> None:
    sections: dict[str, str] = {}
    for section in re.split(r"^## ", _read("reference/cli.md"), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        sections[title.strip().strip("`")] = body
    tree = dict(_commands(main, "gateway"))
    assert set(sections) == set(tree)
    for path, command in tree.items():
        for parameter in command.params:
            shown = parameter.opts[-1].upper() if isinstance(parameter, click.Argument) else ""
            wanted = shown or max(parameter.opts, key=len)
            assert wanted in sections[path], f"{path}: {wanted}"
