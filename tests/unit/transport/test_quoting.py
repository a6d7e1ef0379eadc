"""One quoting function: every word arrives, in every shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.errors import RequestRejected
from gateway.transport.base import Actor, Role
from gateway.transport.pool import SshPool
from gateway.transport.quoting import LINE_LIMIT, build_command_line
from gateway.transport.ssh import SshTransport
from tests.contract.transport import WORDS
from tests.sshd import SshdSite

SHELLS = [s for s in ("/bin/sh", "/bin/bash", "/bin/tcsh", "/bin/zsh", "/usr/bin/fish", "/bin/ksh")
          if shutil.which(s)]  # fmt: skip
LIMIT = timedelta(seconds=20)

any_word = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60),
    st.binary(max_size=60).map(lambda b: os.fsdecode(b.replace(b"\0", b"!"))),
    st.text("!'\"\\\n $`;%#~*0123\r\t\x7f", max_size=20),
)
words = st.lists(any_word, max_size=6)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=60, deadline=None)
@given(words)
@example(WORDS)
def test_words_survive_a_shell(shell: str, argv: list[str]) -> None:
    line = build_command_line(["/usr/bin/printf", "%s\\0", *argv], "MARK")
    done = subprocess.run([shell, "-c", line], capture_output=True, timeout=20, check=True)
    expected = b"".join(os.fsencode(word) + b"\0" for word in argv) or b"\0"
    assert done.stdout == b"MARK" + expected
    assert done.stderr == b"MARK"


@pytest.fixture
async def transport(site: SshdSite) -> AsyncIterator[SshTransport]:
    server = site.servers[0] if site.servers else site.open_sshd()
    transport = SshTransport(SshPool(site.build_profile([server]), site.credentials()))
    yield transport
    await transport.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words)
@example(WORDS)
async def test_words_survive_sshd(site: SshdSite, transport: SshTransport, argv: list[str]) -> None:
    result = await transport.run(
        Actor(Role.USER, site.user), ["/usr/bin/printf", "%s\\0", *argv], timeout=LIMIT
    )
    assert result.stdout == (b"".join(os.fsencode(word) + b"\0" for word in argv) or b"\0")


@given(words)
@example(WORDS)
def test_the_line_holds_no_byte_that_a_shell_reads(argv: list[str]) -> None:
    line = build_command_line(["x", *argv], "MARK")
    assert line.isascii()
    assert line.isprintable()
    assert "!" not in line
    assert line.count("'") == 2


def test_a_plain_command_stays_readable() -> None:
    line = build_command_line(["sbatch", "--parsable", "--job-name=lf-1"], "M")
    assert "exec sbatch --parsable --job-name=lf-1" in line


@pytest.mark.parametrize(
    "argv", [[], [""], ["-x"], ["a", "b\0"], ["\0"], ["echo", "x" * LINE_LIMIT]]
)
def test_impossible_commands_are_refused(argv: list[str]) -> None:
    with pytest.raises(RequestRejected) as caught:
        build_command_line(argv, "M")
    assert caught.value.reason == "command"


@pytest.mark.parametrize("marker", ["", "a b", "a;b", "é", "%s"])
def test_marker_is_plain(marker: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        build_command_line(["true"], marker)


def test_longest_line_runs() -> None:
    word = "x" * (LINE_LIMIT - 200)
    done = subprocess.run(
        ["/bin/sh", "-c", build_command_line(["printf", "%s", word], "M")],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"M" + word.encode()
