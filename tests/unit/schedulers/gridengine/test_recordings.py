"""Everything that real Grid Engine printed is understood."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import ClusterRefused
from gateway.schedulers.gridengine.cluster_parsers import (
    build_associations,
    build_partitions,
    parse_access_lists,
    parse_default_project,
    parse_instances,
    parse_names,
    parse_projects,
    parse_queue_configurations,
    parse_reservation_ids,
    parse_reservations,
    parse_version,
)
from gateway.schedulers.gridengine.parsers import (
    parse_accounting,
    parse_queue,
    parse_reasons,
    parse_submitted,
)
from gateway.schedulers.gridengine.states import build_ended_status, build_state, build_status
from gateway.values.jobs import JobEnd, JobState, Outcome
from gateway.values.resources import MemorySize
from tests.unit.schedulers.gridengine.recordings import BED, PROFILE, SINGLE, asked, load, one


def never(native: str) -> None:
    raise AssertionError(native)


def end(version: str, name: str, *, cancelled: bool = False) -> JobEnd | None:
    row = parse_accounting(asked(version, name).text)[-1]
    status = build_ended_status(
        row, memory_complex="h_vmem", memory_per_slot=True, cancelled=cancelled
    )
    return None if status is None else status.end


def test_every_queue() -> None:
    states = set()
    for version in (SINGLE, BED):
        for name, raw in load(version).items():
            argv = raw["argv"]
            plain = argv[0] == "qstat" and "-xml" in argv and "-j" not in argv
            if not plain or raw["rc"] or "<job_info" not in raw["stdout"]:
                continue
            for row in parse_queue(asked(version, name).text):
                states.add(row.state)
                assert row.owner in ("alice", "bob")
                assert build_state(row.state, never) is not JobState.UNKNOWN
    assert {"r", "t", "qw", "hqw", "hr", "s", "dr", "Eqw", "Rq", "z"} - states <= {"t"}


def test_the_queue_of_the_bed() -> None:
    rows = {row.name: row for row in parse_queue(asked(BED, "qstat-r-xml").text)}
    running = rows["lf-abc"]
    assert (running.queue, running.node, running.slots) == ("gpu.q", "c1", 2)
    assert running.walltime == timedelta(minutes=10)
    status = build_status(running, "", never)
    assert status.started_at is not None
    assert status.ends_at == status.started_at + timedelta(minutes=10)
    assert (status.batch_node, status.nodes) == ("c1", ("c1",))
    waiting = build_status(rows["lf-wait"], "", never)
    assert (waiting.partition, waiting.batch_node) == ("small.q", None)
    assert waiting.submitted_at is not None
    # The name of bob's job, as 8.1.9 escapes it.
    assert any(name.startswith("a%lt;b>&c") for name in rows)


def test_why_jobs_wait() -> None:
    reasons = parse_reasons(asked(BED, "qstat-j-xml").text)
    rows = {row.name: row for row in parse_queue(asked(BED, "qstat-r-xml").text)}
    assert reasons[rows["lf-wait"].job_id] == (
        'cannot run in PE "smp" because it only offers 0 slots; '
        'queue instance "small.q@c3" dropped because it is full'
    )
    assert reasons[rows["lf-err"].job_id] == (
        'can\'t open output file "/nosuch/dir/x": No such file or directory'
    )
    words = build_status(rows["lf-err"], reasons[rows["lf-err"].job_id], never).reason_words
    assert "its output file could not be written" in str(words)
    assert parse_reasons(asked(SINGLE, "qstat-j-unknown-xml").text) == {}
    only = parse_reasons(asked(SINGLE, "qstat-queued-j-xml").text)
    assert only["21"].endswith("All queues dropped because of overload or full")  # type: ignore[index]
    # The scheduler's remarks about all jobs are about each; an unknown job is left out.
    assert list(parse_reasons(asked(SINGLE, "qstat-j-two-one-unknown-xml").text)) == ["18"]


def test_an_array_job_is_none_of_ours() -> None:
    met: list[str] = []
    rows = parse_queue(asked(SINGLE, "qstat-after-qdel-xml").text)
    (array,) = [row for row in rows if row.job_id == "23"]
    assert build_status(array, "", met.append).state is JobState.UNKNOWN
    assert met == ["array"]


@pytest.mark.parametrize(
    ("version", "name", "outcome", "code", "signal"),
    [
        (SINGLE, "qacct-fin-ok", Outcome.COMPLETED, 0, None),
        (SINGLE, "qacct-fin-exit3", Outcome.FAILED, 3, None),
        (SINGLE, "qacct-fin-sigkill", Outcome.FAILED, 0, 9),
        (SINGLE, "qacct-fin-h_rt", Outcome.WALLTIME, 0, 9),
        (SINGLE, "qacct-fin-exit100", Outcome.FAILED, 100, None),
        (SINGLE, "qacct-fin-badcwd", Outcome.NOT_STARTED, 0, None),
        (SINGLE, "qacct-fin-badout", Outcome.NOT_STARTED, 0, None),
        (SINGLE, "qacct-fin-badshell", Outcome.COMPLETED, 0, None),
        (SINGLE, "qacct-array", Outcome.FAILED, 0, 9),
        (SINGLE, "down-qacct", Outcome.COMPLETED, 0, None),
        (BED, "qacct-oom", Outcome.OUT_OF_MEMORY, 0, 9),
        (BED, "qacct-walltime", Outcome.WALLTIME, 0, 9),
        (BED, "qacct-error", Outcome.NOT_STARTED, 0, None),
        (BED, "qacct-cancelled", Outcome.FAILED, 0, 9),
        (BED, "qacct-by-name", Outcome.FAILED, 0, 9),
    ],
)
def test_every_end(
    version: str, name: str, outcome: Outcome, code: int, signal: int | None
) -> None:
    found = end(version, name)
    assert found is not None
    assert (found.outcome, found.exit_code, found.signal) == (outcome, code, signal)
    assert found.words.render("fr") != found.words.render("en")


def test_ends_in_words() -> None:
    assert str(getattr(end(BED, "qacct-oom"), "words", None)) == (
        "The job used more memory than the 100M it had asked for. Ask for more."
    )
    assert str(getattr(end(BED, "qacct-walltime"), "words", None)) == (
        "The job reached its time limit of 00:00:03."
    )
    # A job that goes back into the queue has not ended.
    assert end(SINGLE, "qacct-fin-exit99") is None
    for name in ("qacct-cancelled", "qacct-by-name"):
        cancelled = end(BED, name, cancelled=True)
        assert cancelled is not None
        assert cancelled.outcome is Outcome.CANCELLED
        assert cancelled.ended_at is not None


def test_times_of_a_record() -> None:
    (row,) = parse_accounting(asked(SINGLE, "qacct-fin-h_rt").text)
    assert row.submitted_at == datetime(2026, 11, 20, 18, 53, 41, tzinfo=UTC)
    assert row.ended_at == datetime(2026, 11, 20, 18, 53, 47, tzinfo=UTC)
    assert row.requests == {"h_rt": "5"}
    (row,) = parse_accounting(asked(SINGLE, "qacct-fin-badcwd").text)
    assert (row.started_at, row.ended_at) == (None, None)


def test_submitted() -> None:
    assert parse_submitted(one(SINGLE, "qsub-stdin").text) == "3"
    assert parse_submitted(one(SINGLE, "qsub-plain").text) is None
    assert parse_submitted(one(SINGLE, "qsub-array").text) is None


def test_partitions() -> None:
    instances = parse_instances(asked(BED, "qstat-f-F-r-xml").text, PROFILE)
    configurations = parse_queue_configurations(asked(BED, "qconf-sq").text)
    partitions = {one.name: one for one in build_partitions(instances, configurations, PROFILE)}
    assert list(partitions) == ["gpu.q", "interactive.q", "long.q", "small.q"]
    small, gpu, both = partitions["small.q"], partitions["gpu.q"], partitions["interactive.q"]
    assert (small.cores_total, small.cores_free, small.nodes_free) == (8, 0, 0)
    assert small.max_walltime == timedelta(hours=2)
    assert small.memory_largest_node is not None
    assert small.memory_largest_node > MemorySize(1000)
    assert (gpu.cores_total, gpu.cores_free, gpu.cores_largest_node) == (8, 6, 8)
    (kind,) = gpu.gpus
    assert (kind.kind, kind.total, kind.free, kind.largest_node) == (None, 2, 1, 2)
    # The same GPUs, through another queue of the node; and the cores that are left there.
    assert both.gpus == gpu.gpus
    assert (both.cores_total, both.cores_free, both.nodes_total) == (16, 14, 2)
    assert both.up
    assert both.allowed_accounts is None
    single = parse_queue_configurations(asked(SINGLE, "qconf-sq").text)
    bare = parse_instances(asked(SINGLE, "qstat-f-xml-empty").text, PROFILE)
    (all_q,) = build_partitions(bare, single, PROFILE)
    # Its only parallel environment is another one.
    assert (all_q.cores_largest_node, all_q.cores_free, all_q.gpus) == (1, 4, ())
    assert (all_q.max_walltime, all_q.memory_largest_node) == (None, None)


def test_projects() -> None:
    assert parse_names(asked(BED, "qconf-sprjl").text) == ("chemistry", "physics")
    projects = parse_projects(asked(BED, "qconf-sprj").text)
    lists = parse_access_lists(asked(BED, "qconf-su").text)
    assert lists["physics"] == {"alice", "bob"}
    default = parse_default_project(asked(BED, "qconf-suser").text)
    assert default == "physics"
    (mine,) = build_associations(projects, lists, frozenset({"alice"}), default)
    assert (mine.account, mine.default) == ("physics", True)
    assert build_associations(projects, lists, frozenset({"nosuch"}), None) == ()
    assert parse_default_project(asked(BED, "qconf-suser-unknown").text) is None


def test_reservations() -> None:
    ids = parse_reservation_ids(asked(BED, "qrstat-xml").text)
    now, later = parse_reservations(asked(BED, "qrstat-ar-xml").text)
    assert ids == (now.name, later.name)
    assert (now.active, now.partition, now.nodes) == (True, "interactive.q", 1)
    assert (later.active, later.users) == (False, frozenset({"alice", "@longrun"}))
    assert later.starts_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert later.ends_at - later.starts_at == timedelta(hours=1)
    assert parse_reservation_ids(asked(SINGLE, "qrstat-xml").text) == ()


def test_version() -> None:
    assert parse_version(asked(BED, "qstat-help").text) == "SGE 8.1.9"


def test_half_an_answer_is_none() -> None:
    whole = asked(BED, "qstat-r-xml").text
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ClusterRefused) as caught:
            parse_queue(whole[:cut])
        assert caught.value.reason == "not_understood"
