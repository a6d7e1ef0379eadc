"""The programs that run on the login node, run here by a real shell."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import ClusterRefused, RequestRejected
from gateway.launch.cluster import Cluster
from gateway.launch.states import LaunchRecord, new_launch_id
from gateway.launch.workspace import (
    ABANDONED_DAYS,
    LOGS_KEPT,
    clean_log,
    fetch_log_tail,
    prepare_directory,
    prune_directory,
)
from gateway.transport.base import OUTPUT_LIMIT, Actor, CommandResult
from tests.fakes import FakeWorld
from tests.launch_bench import build_launch, build_start, open_store


class LocalShell(FakeWorld):
    """Runs commands here, in a home of its own, as the contract of Transport says."""

    def __init__(self, home: Path, agent: bytes = b"# agent\n") -> None:
        super().__init__()
        self.home = home
        self.agent = agent

    async def run(
        self,
        actor: Actor,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta,
        output_limit: int = OUTPUT_LIMIT,
    ) -> CommandResult:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
        )
        stdout, stderr = await process.communicate(stdin)
        status = process.returncode
        assert status is not None
        return CommandResult(tuple(argv), status, stdout, stderr, 0.0)

    def build(self) -> Cluster:
        return replace(self.build_cluster(), agent_source=self.agent)


@pytest.fixture
async def record(tmp_path: Path) -> LaunchRecord:
    (tmp_path / "store").mkdir()
    store = await open_store(tmp_path / "store")
    launch = replace(build_launch(), cluster_user=replace(build_launch().cluster_user, uid=None))
    from gateway.text import text

    ensured = await store.ensure(launch, build_start(), text("Made."))
    await store.close()
    return ensured.record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    # Spaces and quotes are what a site's homes may hold; they must mean nothing.
    made = tmp_path / "home of $(alice) 'x'"
    made.mkdir()
    return made


async def test_directory_is_private_and_holds_the_agent(home: Path, record: LaunchRecord) -> None:
    agent = os.urandom(100_000)
    cluster = LocalShell(home, agent).build()
    directory = Path(await prepare_directory(cluster, record))
    assert directory == home / cluster.profile.launch_directory / "launches" / record.id
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (home / cluster.profile.launch_directory).stat().st_mode & 0o777 == 0o700
    assert (directory / "agent.pyz").read_bytes() == agent
    assert (directory / "agent.pyz").stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in directory.iterdir()] == ["agent.pyz"]
    # Again, after a crash.
    assert Path(await prepare_directory(cluster, record)) == directory


async def test_full_home_is_told(home: Path, record: LaunchRecord) -> None:
    cluster = LocalShell(home).build()
    directory = home / cluster.profile.launch_directory / "launches" / record.id
    directory.mkdir(parents=True)
    (directory / "agent.pyz.new").symlink_to("/dev/full")
    with pytest.raises(RequestRejected, match="is full") as refusal:
        await prepare_directory(cluster, record)
    assert refusal.value.reason == "home_full"


async def test_directory_that_cannot_be_made_is_told(home: Path, record: LaunchRecord) -> None:
    cluster = LocalShell(home).build()
    (home / ".local").write_text("a file in the way")
    with pytest.raises(RequestRejected, match="cannot be written") as refusal:
        await prepare_directory(cluster, record)
    assert refusal.value.reason == "home_not_writable"


async def test_missing_home_is_told(home: Path, record: LaunchRecord) -> None:
    shutil.rmtree(home)
    with pytest.raises(RequestRejected, match="cannot be entered") as refusal:
        await prepare_directory(LocalShell(home).build(), record)
    assert refusal.value.reason == "no_home"


async def test_account_of_somebody_else_is_refused(home: Path, record: LaunchRecord) -> None:
    pinned = replace(record, cluster_user=replace(record.cluster_user, uid=os.getuid() + 1))
    with pytest.raises(ClusterRefused) as refusal:
        await prepare_directory(LocalShell(home).build(), pinned)
    assert refusal.value.reason == "wrong_uid"
    assert list(home.iterdir()) == []
    right = replace(record, cluster_user=replace(record.cluster_user, uid=os.getuid()))
    await prepare_directory(LocalShell(home).build(), right)


async def test_agent_that_arrives_cut_off_is_not_used(home: Path, record: LaunchRecord) -> None:
    class Cut(LocalShell):
        async def run(
            self,
            actor: Actor,
            argv: Sequence[str],
            *,
            stdin: bytes = b"",
            timeout: timedelta,
            output_limit: int = OUTPUT_LIMIT,
        ) -> CommandResult:
            return await super().run(actor, argv, stdin=stdin[:-1], timeout=timeout)

    with pytest.raises(RequestRejected):
        await prepare_directory(Cut(home).build(), record)
    assert list(home.rglob("agent.pyz")) == []


async def test_log_tail_is_bounded_and_clean(home: Path, record: LaunchRecord) -> None:
    cluster = LocalShell(home).build()
    known = replace(record, directory=await prepare_directory(cluster, record))
    assert known.directory is not None
    assert await fetch_log_tail(cluster, known) == ""
    log = Path(known.directory) / "job.log"
    log.write_bytes(b"x" * 50_000 + b"\n\x1b[31mred\x00\xff\r\nend\n")
    tail = await fetch_log_tail(cluster, known)
    assert len(tail) <= 16 * 1024
    assert tail.endswith("[31mred�\nend\n")
    assert await fetch_log_tail(cluster, record) == ""


def test_clean_log() -> None:
    assert clean_log("a\tb\r\nc\x1b\x07é") == "a\tb\ncé"


async def test_prune_keeps_the_newest_logs_and_what_lives(home: Path, record: LaunchRecord) -> None:
    cluster = LocalShell(home).build()
    directories: list[Path] = []
    for age in range(LOGS_KEPT + 4):
        launch = replace(record, id=new_launch_id())
        directory = Path(await prepare_directory(cluster, launch))
        (directory / "job.log").write_text("log")
        if age not in (0, 13):
            (directory / "agent.pyz").unlink()  # ended before
        os.utime(directory, (time.time() - 1000 * age,) * 2)
        directories.append(directory)
    other = directories[0].parent / "notes"
    other.mkdir()
    await prune_directory(cluster, replace(record, directory=str(directories[0])))
    kept = [directory for directory in directories if directory.exists()]
    assert directories[0] in kept
    assert [entry.name for entry in directories[0].iterdir()] == ["job.log"]
    assert directories[13] in kept, "a launch that may be alive was removed"
    assert kept == [*directories[:LOGS_KEPT], directories[13]]
    assert other.exists()
    # A directory that is gone already is fine.
    await prune_directory(cluster, replace(record, directory=str(home / "nothing")))


async def test_a_launch_that_was_never_tidied_is_tidied_in_the_end(
    home: Path, record: LaunchRecord
) -> None:
    cluster = LocalShell(home).build()

    async def make(directory_age: float, log_age: float) -> Path:
        directory = Path(await prepare_directory(cluster, replace(record, id=new_launch_id())))
        (directory / "job.log").write_text("log")
        for path, age in (
            (directory / "job.log", log_age),
            (directory / "agent.pyz", directory_age),
            (directory, directory_age),
        ):
            os.utime(path, (time.time() - 86400 * age,) * 2)
        return directory

    own = await make(0, 0)
    abandoned = await make(ABANDONED_DAYS + 2, ABANDONED_DAYS + 2)
    waiting = await make(ABANDONED_DAYS - 2, ABANDONED_DAYS - 2)
    writing = await make(ABANDONED_DAYS + 2, 0)
    await prune_directory(cluster, replace(record, directory=str(own)))
    assert [entry.name for entry in abandoned.iterdir()] == ["job.log"]
    assert (waiting / "agent.pyz").exists()
    assert (writing / "agent.pyz").exists()
