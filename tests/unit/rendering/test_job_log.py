from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.remote.landfall_agent import words
from gateway.rendering.job_log import _WORDS, WORDS_LIMIT, parse_job_log
from gateway.rendering.renderer import shipped_template_directory

OOM = (
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch. Some of your processes may "
    "have been killed by the cgroup out-of-memory handler."
)
TIME = "slurmstepd: error: *** JOB 7 ON c1 CANCELLED AT 2026-11-20T20:00:00 DUE TO TIME LIMIT ***"
KILLED = "landfall: error server_killed: The server was killed by signal 9."
FAILED = "landfall: error server_failed: The server ended with exit status 1."


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ('landfall: error module_missing: The module "x" cannot be loaded', "module_missing"),
        ("landfall: error quota: /home is full", "quota"),
        (TIME, "walltime"),
        (OOM, "out_of_memory"),
        ("slurmstepd: error: Exceeded job memory limit", "out_of_memory"),
        ("=>> PBS: job killed: walltime 10 exceeded limit 5", "walltime"),
        ("=>> PBS: job killed: mem 5000kb exceeded limit 4096kb", "out_of_memory"),
        ("=>> PBS: job killed: vmem 5000kb exceeded limit 4096kb", "out_of_memory"),
        ("/var/spool/x: line 9: jupyterhub-singleuser: command not found", "command_not_found"),
        ("OSError: [Errno 28] No space left on device: '/home'", "quota"),
        ("cp: error writing 'a': Disk quota exceeded", "quota"),
        (f"{OOM}\n{KILLED}", "out_of_memory"),
        (f"{KILLED}\n{TIME}", "walltime"),
        (f"OSError: [Errno 28] No space left on device\n{FAILED}", "quota"),
        (f"{KILLED}\n", "server_killed"),
        ("landfall: error brand_new: Something else", "other"),
        ("landfall: error quota: one\nlandfall: error start_directory: two", "start_directory"),
        ("x: command not found\nlandfall: error quota: full", "quota"),
    ],
)
def test_reasons(log: str, reason: str) -> None:
    failure = parse_job_log(log)
    assert failure is not None
    assert failure.reason == reason
    assert failure.words.render("en")
    assert failure.words.render("fr") != failure.words.render("en")


@pytest.mark.parametrize(
    "log",
    [
        "",
        "landfall: 2026-11-20 20:00:00 Waiting for the gateway on c1.",
        "x landfall: error quota: in the middle of a line",
        "landfall: error QUOTA: not a code",
        "slurmstepd: error: *** JOB 7 ON c1 CANCELLED AT 2026-11-20T20:00:00 ***",
    ],
)
def test_nothing_is_read_into_other_lines(log: str) -> None:
    assert parse_job_log(log) is None


def test_the_words_of_the_log_are_shown_without_escapes_and_cut() -> None:
    failure = parse_job_log("landfall: error quota: \x1b[31mred\x1b[0m\x07 " + "x" * 9999)
    assert failure is not None
    assert failure.said.startswith("red")
    assert len(failure.said) == WORDS_LIMIT


@given(
    st.text()
    | st.lists(
        st.sampled_from([OOM, TIME, KILLED, FAILED, "landfall: error a: {x} {0}", "\n", "\x1b["])
        | st.text()
    ).map("\n".join)
)
def test_any_log_is_read_without_an_exception(log: str) -> None:
    failure = parse_job_log(log)
    if failure is not None:
        for language in ("en", "fr"):
            assert "\n" not in failure.words.render(language)


def test_every_code_that_can_be_written_has_its_words() -> None:
    template = (shipped_template_directory() / "_base.sh.j2").read_text()
    codes = set(re.findall(r"landfall_fail ([a-z_]+) \d", template))
    codes |= {*words.FAILURES, "agent_python_old"}
    assert len(codes) > 12
    assert codes <= set(_WORDS)
