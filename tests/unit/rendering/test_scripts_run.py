"""Rendered scripts, run by a real bash, with a stand-in for the agent and real or fake modules."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.rendering.job_log import parse_job_log
from gateway.rendering.renderer import Renderer
from tests.unit.rendering.samples import LAUNCH, build_profile, build_request

LMOD = Path("/usr/share/lmod/lmod/init/bash")
AGENT = """\
import json, os, sys, time
print("ARGV", json.dumps(sys.argv[1:]))
print("ENV", json.dumps(dict(os.environ)))
sys.stdout.flush()
sys.exit(int(os.environ.get("STATUS", "0")))
"""


class Site:
    """A home directory with an agent, and whatever a profile says."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.launch = self.home / "launches" / LAUNCH
        self.launch.mkdir(parents=True)
        self.agent = self.home / "agent.py"
        self.agent.write_text(AGENT)
        self.templates = root / "templates"
        self.templates.mkdir()

    def script(self, **profile: Any) -> str:
        profile.setdefault("agent_python", sys.executable)
        return (
            Renderer([self.templates])
            .render(
                build_profile(**profile),
                build_request(
                    directory=str(self.launch),
                    agent_path=str(self.agent),
                    start_directory="it's $(touch pwned)",
                ),
            )
            .text
        )

    def run(
        self, environment: Mapping[str, str] | None = None, **profile: Any
    ) -> subprocess.CompletedProcess[str]:
        """As a batch job does: the script on stdin's place, a small environment."""
        path = self.home / "slurm_script"
        path.write_text(self.script(**profile))
        path.chmod(0o700)
        return subprocess.run(
            [str(path)],
            env={"HOME": str(self.home)} if environment is None else dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def marker(done: subprocess.CompletedProcess[str]) -> str:
    codes = re.findall(r"^landfall: error ([a-z_]+): .+$", done.stderr, re.MULTILINE)
    assert len(codes) == 1, done.stderr
    failure = parse_job_log(done.stderr)
    assert failure is not None
    assert failure.reason == codes[0]
    return str(codes[0])


def environment_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    value: dict[str, str] = json.loads(re.findall(r"^ENV (.*)$", done.stdout, re.MULTILINE)[0])
    return value


def fake_module(behaviour: str) -> str:
    return f'module() {{ [ "$1" = load ] || return 9; {behaviour}; }}'


def test_the_agent_gets_its_arguments_word_for_word(site: Site) -> None:
    done = site.run(command=["jupyterhub-singleuser"], arguments=["a b", "", "$HOME", "--x='y'"])
    assert (done.returncode, done.stderr) == (0, "")
    argv = json.loads(re.findall(r"^ARGV (.*)$", done.stdout, re.MULTILINE)[0])
    assert argv == [
        *("--launch-id", LAUNCH),
        *("--directory", str(site.launch)),
        *("--socket-directory", "/tmp"),
        "--start-directory=it's $(touch pwned)",
        "--",
        "jupyterhub-singleuser",
        "--ServerApp.default_url=/lab",
        *("a b", "", "$HOME", "--x='y'"),
    ]
    assert not list(site.home.rglob("pwned"))


@pytest.mark.parametrize("given", [{}, {"HOME": ""}])
def test_an_empty_environment_is_filled(site: Site, given: dict[str, str]) -> None:
    # What --export=NIL leaves of the environment: nothing.
    environment = environment_of(site.run(given))
    assert environment["HOME"] == os.path.expanduser(f"~{environment['USER']}")  # noqa: PTH111
    assert environment["LOGNAME"] == environment["USER"]
    assert "/usr/bin" in environment["PATH"].split(":")
    assert environment["SHELL"].startswith("/")


def test_srun_inside_the_session_keeps_its_environment(site: Site) -> None:
    environment = environment_of(
        site.run({"HOME": str(site.home), "SLURM_EXPORT_ENV": "NONE", "SLURM_JOB_ID": "7"})
    )
    assert "SLURM_EXPORT_ENV" not in environment
    assert environment["SLURM_JOB_ID"] == "7"


def test_files_are_private(site: Site) -> None:
    site.run(setup=["touch $HOME/made"])
    assert site.home.joinpath("made").stat().st_mode & 0o777 == 0o600


def test_the_exit_status_of_the_agent_is_that_of_the_job(site: Site) -> None:
    assert site.run({"HOME": str(site.home), "STATUS": "5"}).returncode == 5


def test_set_up_may_switch_on_what_it_likes(site: Site) -> None:
    done = site.run(setup=["export SITE=1", "set -eu"], modules=["gcc"], command=["x"])
    assert marker(done) == "module_missing"
    done = site.run(
        setup=["export SITE=1", fake_module("export LOADED+=:$2; false; : $NEVER_SET"), "set -eu"],
        modules=["gcc/12", "python"],
    )
    environment = environment_of(done)
    assert (environment["SITE"], environment["LOADED"]) == ("1", ":gcc/12:python")


def test_the_first_module_that_fails_ends_the_job_with_its_words(site: Site) -> None:
    fake = fake_module(
        'echo "loading $2"; [ "$2" != b ] || { printf "no\\n\\tb\\e[0m here" >&2; return 1; }'
    )
    done = site.run(setup=[fake], modules=["a", "b", "c"])
    assert done.returncode == 71
    assert marker(done) == "module_missing"
    assert "loading a\nloading b\n" in done.stdout
    assert "loading c" not in done.stdout
    assert re.search(r"The module b cannot be loaded on \S+: no b \[0m here$", done.stderr, re.M)


def test_an_old_module_command_that_fails_with_status_0(site: Site) -> None:
    fake = fake_module(
        "echo \"ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for '$2'\" >&2"
    )
    done = site.run(setup=[fake], modules=["gone"])
    assert (done.returncode, marker(done)) == (71, "module_missing")


def test_no_module_command(site: Site) -> None:
    done = site.run(setup=["unset -f module"], modules=["gcc"])
    assert (done.returncode, marker(done)) == (72, "module_command")


@pytest.mark.skipif(not LMOD.exists() and not os.environ.get("CI"), reason="Lmod is missing")
class TestLmod:
    """The same with Lmod itself and a tree of one module."""

    @pytest.fixture
    def setup_lines(self, site: Site) -> list[str]:
        tree = site.home / "modules"
        (tree / "gcc").mkdir(parents=True)
        (tree / "gcc" / "12.3.lua").write_text('setenv("GCC", "12.3")\n')
        (tree / "refuse").mkdir()
        (tree / "refuse" / "1.lua").write_text('LmodError("A licence is needed")\n')
        return [f"source {LMOD}", f"export MODULEPATH={tree}"]

    def test_a_module_that_is_there(self, site: Site, setup_lines: list[str]) -> None:
        done = site.run(setup=setup_lines, modules=["gcc/12.3"])
        assert environment_of(done)["GCC"] == "12.3"

    def test_a_module_that_is_missing(self, site: Site, setup_lines: list[str]) -> None:
        done = site.run(setup=setup_lines, modules=["gcc/12.3", "nosuch/9"])
        assert (done.returncode, marker(done)) == (71, "module_missing")
        assert 'module(s) are unknown: "nosuch/9"' in parse_words(done)

    def test_a_module_that_refuses(self, site: Site, setup_lines: list[str]) -> None:
        done = site.run(setup=setup_lines, modules=["refuse/1"])
        assert (done.returncode, marker(done)) == (71, "module_missing")
        assert "A licence is needed" in parse_words(done)


def parse_words(done: subprocess.CompletedProcess[str]) -> str:
    failure = parse_job_log(done.stderr)
    assert failure is not None
    return failure.words.render("fr")


def test_a_launch_directory_that_is_gone(site: Site) -> None:
    done = site.run(setup=[f"rmdir {site.launch}"])
    assert (done.returncode, marker(done)) == (74, "directory_missing")


def test_an_agent_that_is_gone(site: Site) -> None:
    done = site.run(setup=[f"rm {site.agent}"])
    assert (done.returncode, marker(done)) == (73, "agent_missing")


def test_an_interpreter_that_is_not_there(site: Site) -> None:
    done = site.run(agent_python="/no/such/python")
    assert (done.returncode, marker(done)) == (73, "agent_python_missing")


def test_an_interpreter_that_is_too_old(site: Site) -> None:
    old = site.home / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = site.run(agent_python=str(old))
    assert (done.returncode, marker(done)) == (73, "agent_python_old")


def test_a_command_of_the_set_up_that_is_not_there(site: Site) -> None:
    done = site.run(setup=["no_such_command --x"])
    assert done.returncode == 0
    failure = parse_job_log(done.stderr)
    assert failure is not None
    assert failure.reason == "command_not_found"


class TestEpilogue:
    """A site's epilogue runs after the agent, whose status and signals stay what they are."""

    @pytest.fixture
    def with_epilogue(self, site: Site) -> Site:
        (site.templates / "site.sh.j2").write_text(
            '{% extends "slurm/notebook.sh.j2" %}\n'
            "{% block epilogue %}\necho EPILOGUE\n{% endblock %}\n"
        )
        return site

    def test_it_runs_last_and_keeps_the_status(self, with_epilogue: Site) -> None:
        done = with_epilogue.run(
            {"HOME": str(with_epilogue.home), "STATUS": "5"}, template="site.sh.j2"
        )
        assert done.returncode == 5
        assert done.stdout.endswith("\nEPILOGUE\n")

    def test_a_signal_reaches_the_agent(self, with_epilogue: Site) -> None:
        with_epilogue.agent.write_text(
            "import os, signal, sys\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
            "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'NOTICE\\n'))\n"
            "print('READY', flush=True)\n"
            "while True: signal.pause()\n"
        )
        path = with_epilogue.home / "slurm_script"
        path.write_text(with_epilogue.script(template="site.sh.j2"))
        process = subprocess.Popen(
            ["bash", str(path)],
            env={"HOME": str(with_epilogue.home)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout as output:
            assert output.readline() == "READY\n"
            process.send_signal(10)
            assert output.readline() == "NOTICE\n"
            process.terminate()
            assert output.readline() == "EPILOGUE\n"
        assert process.wait(10) == 7
