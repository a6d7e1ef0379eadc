"""The store's promises, also under hypothesis: allowed steps only, one launch per server."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sqlite3
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigurationError
from gateway.launch import store as store_module
from gateway.launch.database import Database, DatabaseFailed
from gateway.launch.secrets import SecretBox
from gateway.launch.states import (
    ADOPTABLE_STATES,
    TRANSITIONS,
    EndReason,
    LaunchState,
)
from gateway.launch.store import ChangedMeanwhile, LaunchStore
from gateway.launch.tables import metadata
from gateway.text import text
from gateway.values.jobs import JobId
from tests.launch_bench import build_launch, build_start, open_store

WORDS = text("Something happens.")


async def test_edge_keeps_away_from_ports_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        taken = listening.getsockname()[1]
        monkeypatch.setattr(store_module, "EDGE_PORTS", (taken, 20999))
        store = await open_store(tmp_path)
        for number in range(8):
            ensured = await store.ensure(build_launch(server=f"s{number}"), build_start(), WORDS)
            assert ensured.record.edge.port == 20999
        await store.close()


async def test_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    new = build_launch(server="gpu")
    ensured = await store.ensure(new, build_start(), WORDS)
    now = datetime.now(UTC)
    await store.transition(
        new.id, LaunchState.SUBMITTING, WORDS, directory="/home/alice/x", submit_attempted_at=now
    )
    await store.transition(new.id, LaunchState.QUEUED, WORDS, by="alice", job_id=JobId("7"))
    await store.update(new.id, job_seen_at=now)
    await store.close()

    store = await open_store(tmp_path)
    record = await store.fetch(new.id)
    assert record is not None
    assert record.identity == new.identity
    assert record.cluster_user == new.cluster_user
    assert record.options == new.options
    assert record.edge == ensured.record.edge
    assert record.submit_attempted_at == now
    assert record.job_seen_at == now
    assert record.job_id == "7"
    assert [line.state for line in record.history] == [
        LaunchState.REQUESTED,
        LaunchState.SUBMITTING,
        LaunchState.QUEUED,
    ]
    assert record.history[-1].by == "alice"
    assert record.history[0].words.render("fr")
    await store.close()


async def test_refused_step_changes_nothing(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    new = build_launch()
    await store.ensure(new, build_start(), WORDS)
    with pytest.raises(ChangedMeanwhile):
        await store.transition(new.id, LaunchState.READY, WORDS, node="n1")
    record = await store.fetch(new.id)
    assert record is not None
    assert record.node is None
    assert len(record.history) == 1
    with pytest.raises(ValueError, match="not changeable"):
        await store.update(new.id, state="ready")
    await store.close()


async def test_ended_launch_loses_its_secrets_and_its_address_rests(tmp_path: Path) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = await open_store(tmp_path)
    store.now = lambda: clock[0]
    new = build_launch()
    ensured = await store.ensure(new, build_start(), WORDS)
    await store.transition(new.id, LaunchState.ENDED, WORDS, end_reason=EndReason.STOPPED)
    assert await store.fetch_start(new.id, None) is None
    await store.update(new.id, log_tail="later")
    await store.update(new.id, node="never")
    record = await store.fetch(new.id)
    assert record is not None
    assert record.log_tail == "later"
    assert record.node is None

    def count() -> int:
        with sqlite3.connect(tmp_path / "connector.sqlite") as connection:
            query = "SELECT count(*) FROM edge_addresses WHERE ip = ?"
            number: int = connection.execute(query, (ensured.record.edge.ip,)).fetchone()[0]
        connection.close()
        return number

    clock[0] += timedelta(hours=23)
    await store.ensure(build_launch("bob"), build_start(), WORDS)
    assert count() == 1
    clock[0] += timedelta(hours=2)
    await store.ensure(build_launch("carol"), build_start(), WORDS)
    assert count() == 0
    await store.close()


async def test_secrets_are_nowhere_on_the_disk(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    new = build_launch()
    start = build_start("a-token-that-nobody-may-read")
    await store.ensure(new, start, WORDS)
    for path in tmp_path.iterdir():
        assert b"a-token-that-nobody-may-read" not in path.read_bytes(), path.name
        assert b"JUPYTERHUB_USER" not in path.read_bytes(), path.name
        assert path.stat().st_mode & 0o077 == 0, path.name
    stored = await store.fetch_start(new.id, start.start_id)
    assert stored == start
    assert "nobody-may-read" not in repr(stored)
    await store.close()


async def test_secrets_do_not_open_for_another_launch(tmp_path: Path) -> None:
    box = SecretBox.open(tmp_path / "key")
    start = build_start()
    sealed = box.seal("aaaa", start)
    assert box.unseal("aaaa", start.start_id, sealed) == start
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        box.unseal("bbbb", start.start_id, sealed)
    other = SecretBox.open(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        other.unseal("aaaa", start.start_id, sealed)


def test_key_file_is_refused_when_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    SecretBox.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="0600"):
        SecretBox.open(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="does not hold a key"):
        SecretBox.open(path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(bytes(32))
    with pytest.raises(ConfigurationError, match="cannot be used"):
        SecretBox.open(path)


async def test_migrations_make_the_schema_that_the_code_means(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    store = await open_store(tmp_path)
    await store.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'connector.sqlite'}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []
    with sqlite3.connect(tmp_path / "connector.sqlite") as connection_:
        (sql,) = connection_.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'ix_launches_one_per_server'"
        ).fetchone()
        (mode,) = connection_.execute("PRAGMA journal_mode").fetchone()
    connection_.close()
    assert mode == "wal"
    for state in LaunchState:
        assert (f"'{state.value}'" in sql) == (state in ADOPTABLE_STATES)


async def test_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.close()
    with sqlite3.connect(tmp_path / "connector.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConfigurationError, match="another version"):
        await open_store(tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "nosuchdb://x/y", "sqlite+aiosqlite:////proc/no/x"])
async def test_unusable_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        await Database.open(url)


async def test_database_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    with sqlite3.connect(tmp_path / "connector.sqlite") as connection:
        connection.execute("DROP TABLE starts")
    connection.close()
    with pytest.raises(DatabaseFailed) as failure:
        await store.ensure(build_launch(), build_start("secret-in-the-statement"), WORDS)
    assert "secret-in-the-statement" not in str(failure.value)
    assert await store.find() == []
    await store.close()


async def test_cancelled_caller_does_not_cut_a_transaction(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    new = build_launch()
    task = asyncio.create_task(store.ensure(new, build_start(), WORDS))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await store.fetch(new.id)
    assert record is not None
    assert len(record.history) == 1
    assert await store.fetch_start(new.id, None) is not None
    await store.close()


async def test_two_processes_make_one_launch(tmp_path: Path) -> None:
    first, second = await open_store(tmp_path), await open_store(tmp_path)
    answers = await asyncio.gather(
        *(
            store.ensure(build_launch(), build_start(), WORDS)
            for store in (first, second)
            for _ in range(5)
        )
    )
    assert len({answer.record.id for answer in answers}) == 1
    await first.close()
    await second.close()


async def test_find(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    first = await store.ensure(build_launch(), build_start(), WORDS)
    named = await store.ensure(build_launch(server="gpu"), build_start(), WORDS)
    await store.ensure(build_launch("bob"), build_start(), WORDS)
    await store.transition(first.record.id, LaunchState.ENDED, WORDS)
    again = await store.ensure(build_launch(), build_start(), WORDS)
    assert again.record.id != first.record.id

    async def ids(**query: object) -> list[str]:
        return [record.id for record in await store.find(**query)]  # type: ignore[arg-type]

    assert len(await ids()) == 4
    assert await ids(hub_user="alice", server_name="gpu") == [named.record.id]
    assert await ids(hub_user="alice", server_name="") == [again.record.id, first.record.id]
    assert await ids(hub_user="alice", live=False) == [first.record.id]
    assert set(await ids(hub_user="alice", live=True)) == {named.record.id, again.record.id}
    assert all(record.history for record in await store.find())
    await store.close()


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ensure", "step"]),
        st.integers(0, 2),
        st.sampled_from(["", "gpu"]),
        st.sampled_from(sorted(LaunchState)),
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(_STEPS)
def test_whatever_is_asked_in_whatever_order(
    steps: list[tuple[str, int, str, LaunchState]],
) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int, str, LaunchState]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = await open_store(Path(directory))
        try:
            for kind, number, server, target in steps:
                if kind == "ensure":
                    await store.ensure(build_launch("alice", server), build_start(), WORDS)
                else:
                    await _try_step(store, number, target)
                await _check_invariants(store)
        finally:
            await store.close()


async def _try_step(store: LaunchStore, number: int, target: LaunchState) -> None:
    records = await store.find()
    if number >= len(records):
        return
    record = records[number]
    if target in TRANSITIONS[record.state]:
        after = await store.transition(record.id, target, WORDS)
        assert after.state is target
        assert len(after.history) == len(record.history) + 1
    else:
        with pytest.raises(ChangedMeanwhile):
            await store.transition(record.id, target, WORDS)


async def _check_invariants(store: LaunchStore) -> None:
    records = await store.find()
    adoptable = [r.server_name for r in records if r.state in ADOPTABLE_STATES]
    assert len(adoptable) == len(set(adoptable))
    edges = [record.edge.ip for record in records]
    assert len(edges) == len(set(edges))
    for record in records:
        states = [line.state for line in record.history]
        assert states[0] is LaunchState.REQUESTED
        assert states[-1] is record.state
        for before, after in itertools.pairwise(states):
            assert after in TRANSITIONS[before]
        assert (await store.fetch_start(record.id, None) is None) == (not record.live)
