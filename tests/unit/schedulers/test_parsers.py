"""The parsers are total: any text is parsed or not understood, and never says "gone"."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClusterRefused
from gateway.schedulers.command_environment import ANSWERED
from gateway.schedulers.slurm import cluster_parsers, parsers, states
from gateway.values.jobs import JobId
from tests.unit.schedulers.recordings import VERSIONS, answered, as_queue, load, one

ROW = "17|RUNNING|c1|c1|interactive|alice|2026-11-20T18:33:34|2026-11-20T18:33:35|N/A|None|."
SACCT = (
    "17|FAILED|3:0|None|01:00:00|500M|2026-11-20T18:33:34|2026-11-20T18:33:35|2026-11-20T18:34:35"
    "|alice|6001|small|c1|"
)
NODE = "c1 small* mixed 3/5/0/8 0 20000 gpu:a100:2(S:0-1) gpu:a100:1(IDX:0)"

PARSERS: list[Callable[[str], object]] = [
    parsers.parse_queue,
    parsers.parse_accounting,
    parsers.parse_accounting_names,
    lambda text: parsers.parse_exit_code(text, JobId("17")),
    lambda text: cluster_parsers.parse_partitions(text, ()),
    cluster_parsers.parse_nodes,
    cluster_parsers.parse_reservations,
    cluster_parsers.parse_associations,
    cluster_parsers.parse_cluster_name,
    cluster_parsers.parse_version,
    cluster_parsers.parse_words,
]
PIECES = st.sampled_from(
    (
        *"|.=,:[]()-*\n ",
        *("17", "RUNNING", "gpu", "N/A", "2026-11-20T18:33:34", "c[1-2]", ROW, "alice", NODE),
        *("PartitionName=a", "State=UP", "MaxTime=", "9" * 30, "²", "\x00", "\r", "0:53", SACCT),
    )
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=25).map("".join))


@pytest.mark.parametrize("parse", PARSERS)
@given(text=TEXTS, whole=st.booleans())
def test_any_text(parse: Callable[[str], object], text: str, whole: bool) -> None:
    if whole:
        text = answered(text + "\n" if text else text)
    with suppress(ClusterRefused):
        parse(text)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recording_through_every_parser(version: str) -> None:
    """Whatever Slurm ever printed, also to another question: understood or refused, no fault."""
    for recording in load(version):
        for words in (recording.stdout, recording.stderr, answered(recording.stdout)):
            for parse in PARSERS:
                with suppress(ClusterRefused):
                    parse(words)


@given(text=TEXTS)
def test_no_answer_without_its_end(text: str) -> None:
    """An answer that was cut off, even an empty one, is never an answer."""
    if not text.endswith(f"{ANSWERED}\n"):
        for parse in PARSERS:
            with pytest.raises(ClusterRefused):
                parse(text)


@given(cut=st.integers(min_value=0))
def test_every_prefix_is_not_understood(cut: int) -> None:
    whole = as_queue(one("22.05", "squeue-fmt-many").stdout)
    with pytest.raises(ClusterRefused):
        parsers.parse_queue(whole[: cut % len(whole)])


def test_a_line_without_its_end() -> None:
    """The closing line follows at once: the one before it lost its end."""
    assert len(parsers.parse_queue(f"{ROW}\n{ANSWERED}\n")) == 1
    with pytest.raises(ClusterRefused):
        parsers.parse_queue(f"{ROW}{ANSWERED}\n")


@given(name=st.text(max_size=60))
def test_submitted(name: str) -> None:
    job = parsers.parse_submitted(name)
    assert job is None or name.startswith(job)


def test_submitted_forms() -> None:
    assert parsers.parse_submitted("17\n") == "17"
    assert parsers.parse_submitted("17;narval\n") == "17"
    for text in ("", "\n", "0\n", "Submitted batch job 17\n", "17\n18\n", "x17\n", "17 \n"):
        assert parsers.parse_submitted(text) is None


def test_queue_row() -> None:
    (row,) = parsers.parse_queue(answered(ROW + "\n"))
    assert (row.job_id, row.state, row.owner, row.ends_at) == ("17", "RUNNING", "alice", None)
    assert row.submitted_at == datetime(2026, 11, 20, 18, 33, 34, tzinfo=UTC)
    # The reason is the scheduler's free text and may hold anything but a line end.
    odd = ROW.replace("|None|", "|a|b|.|")
    assert parsers.parse_queue(answered(odd + "\n"))[0].reason == "a|b|."
    # The same line twice is one job; two lines about one job are a lie.
    assert len(parsers.parse_queue(answered(f"{ROW}\n{ROW}\n"))) == 1
    with pytest.raises(ClusterRefused):
        parsers.parse_queue(answered(f"{ROW}\n{ROW.replace('RUNNING', 'FAILED')}\n"))


@pytest.mark.parametrize(
    "line",
    [
        ROW[:-1],
        ROW[:-2],
        ROW.replace("17|", "17_1|"),
        ROW.replace("RUNNING", "running"),
        ROW.replace("alice", "ali ce"),
        ROW.replace("|c1|c1|", "|c 1|c1|"),
        ROW.replace("|c1|c1|", "|c1|c[1-|"),
        ROW.replace("2026-11-20T18:33:34", "2026-13-20T18:33:34"),
        ROW.replace("2026-11-20T18:33:34", "yesterday"),
    ],
)
def test_queue_rows_that_are_none(line: str) -> None:
    with pytest.raises(ClusterRefused):
        parsers.parse_queue(answered(line + "\n"))


def test_exit_code() -> None:
    job = JobId("17")
    assert parsers.parse_exit_code(answered(""), job) is None
    assert parsers.parse_exit_code(answered("17     768    \n"), job) == (3, 0)
    assert parsers.parse_exit_code(answered("17  9\n"), job) == (0, 9)
    assert parsers.parse_exit_code(answered("17  3:0\n"), job) == (3, 0)
    for text in ("18 768\n", "17 x\n", "17\n", "17 1\n17 1\n"):
        with pytest.raises(ClusterRefused):
            parsers.parse_exit_code(answered(text), job)


def test_accounting() -> None:
    (row,) = parsers.parse_accounting(answered(SACCT + "\n"))
    assert (row.exit_code, row.signal, row.walltime) == (3, 0, timedelta(hours=1))
    assert row.nodes == ("c1",)
    none = SACCT.replace("|c1|", "|None assigned|").replace("FAILED", "CANCELLED by 1001")
    (row,) = parsers.parse_accounting(answered(none + "\n"))
    assert (row.nodes, row.cancelled_by) == ((), "1001")
    for line in (SACCT[:-1], SACCT.replace("3:0", "3"), SACCT.replace("17|", "17.batch|")):
        with pytest.raises(ClusterRefused):
            parsers.parse_accounting(answered(line + "\n"))
    (named,) = parsers.parse_accounting_names(answered("17|2026-11-20T18:33:34|alice|\n"))
    assert (named.job_id, named.owner) == ("17", "alice")
    with pytest.raises(ClusterRefused):
        parsers.parse_accounting_names(answered("17_1|2026-11-20T18:33:34|alice|\n"))


def test_an_accounting_that_does_not_know_the_end() -> None:
    (row,) = parsers.parse_accounting(answered(f"{SACCT}\n"))
    met: list[str] = []
    ended = states.build_accounted_status(row, met.append)
    assert ended is not None
    assert ended.end is not None
    assert states.build_accounted_status(replace(row, ended_at=None), met.append) is None
    assert met == []
    assert states.build_accounted_status(replace(row, state="REBORN"), met.append) is None
    assert met == ["REBORN"]


def test_durations() -> None:
    assert parsers.parse_duration("1-02:03:04") == timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert parsers.parse_duration("02:30") == timedelta(minutes=2, seconds=30)
    assert parsers.parse_duration("UNLIMITED") is None
    with pytest.raises(ClusterRefused):
        parsers.parse_duration("1h")


def test_hosts() -> None:
    assert parsers.parse_hosts("c[1-3,07],login,n[01-02]-ib") == (
        *("c1", "c2", "c3", "c07", "login"),
        *("n01-ib", "n02-ib"),
    )
    assert parsers.parse_hosts("(null)") == ()
    for text in (
        "c[1-99999999]",
        "c[1-60000],d[1-60000]",
        "c[a]",
        "c[1-2",
        "c d",
        "c[1-9999999999]",
    ):
        with pytest.raises(ClusterRefused):
            parsers.parse_hosts(text)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("gpu:0", {None: 0}),
        ("gpu", {None: 1}),
        ("gpu:4(S:0-1)", {None: 4}),
        ("gpu:a100:2(S:0,1)", {"a100": 2}),
        ("gpu:a100", {"a100": 1}),
        ("gpu:4090:2", {"4090": 2}),
        ("gpu:a100:1(IDX:0),gpu:1g.5gb:7(IDX:N/A),shard:8", {"a100": 1, "1g.5gb": 7}),
        ("gpu:nvidia_a100_1g.5gb:3(S:0),gpu:nvidia_a100_1g.5gb:4(S:1)", {"nvidia_a100_1g.5gb": 7}),
        ("bandwidth:lustre:no_consume:4G,gpu:h100:no_consume:4", {"h100": 4}),
    ],
)
def test_gpus(gres: str, gpus: dict[str | None, int]) -> None:
    assert cluster_parsers.parse_gpus(gres) == gpus


@pytest.mark.parametrize("gres", ["gpu:a:b:2", "gpu::2", "gpu:a100:2(", "gpu a100"])
def test_gpus_that_are_none(gres: str) -> None:
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_gpus(gres)


@pytest.mark.parametrize(
    ("state", "free"),
    [
        *(("mixed", 5), ("idle", 5), ("idle~", 5), ("planned", 5), ("mixed-", 5)),
        *(("down*", 0), ("idle*", 0), ("drained", 0), ("draining@", 0), ("idle$", 0)),
        *(("reserved", 0), ("maint", 0), ("unheard_of", 0), ("fail", 0)),
    ],
)
def test_nodes_that_cannot_be_used_are_not_free(state: str, free: int) -> None:
    nodes = cluster_parsers.parse_nodes(answered(NODE.replace("mixed", state) + "\n"))
    line = "PartitionName=small MaxTime=UNLIMITED State=UP MaxCPUsPerNode=4 MaxMemPerNode=1000"
    (partition,) = cluster_parsers.parse_partitions(answered(line + "\n"), nodes)
    assert (partition.cores_total, partition.cores_free) == (8, free)
    assert partition.cores_largest_node == 4
    assert partition.memory_largest_node is not None
    assert partition.memory_largest_node.mib == 1000
    (gpus,) = partition.gpus
    assert (gpus.total, gpus.free) == (2, 1 if free else 0)
    assert partition.max_walltime is None


def test_partitions() -> None:
    line = "PartitionName=a AllowAccounts=x,y AllowQos= AllowGroups=g State=DOWN RootOnly=NO"
    (partition,) = cluster_parsers.parse_partitions(answered(line + " \n\n"), ())
    assert not partition.up
    assert partition.allowed_accounts == frozenset({"x", "y"})
    assert partition.allowed_qos == frozenset()
    assert partition.allowed_groups == frozenset({"g"})
    assert partition.memory_largest_node is None
    for bad in ("State=UP PartitionName=a", "PartitionName= State=UP", "PartitionName=a b", "x"):
        with pytest.raises(ClusterRefused):
            cluster_parsers.parse_partitions(answered(bad + "\n"), ())
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_partitions(answered("PartitionName=a MaxCPUsPerNode=x\n"), ())
    for bad in ("c1 a idle 1/2 0 1 (null) (null)", "c1 a idle 0/8/0/8 0 20000 (null)"):
        with pytest.raises(ClusterRefused):
            cluster_parsers.parse_nodes(answered(bad + "\n"))


RESERVATION = (
    "ReservationName=a StartTime=2026-11-20T18:33:52 EndTime=2026-11-20T19:33:52 NodeCnt=1"
    " Users=-bob,alice Groups=g Accounts=-x State=ACTIVE"
)


def test_reservations() -> None:
    (row,) = cluster_parsers.parse_reservations(answered(RESERVATION + "\n"))
    assert row.reservation.users == {"alice"}
    assert row.denied_users == {"bob"}
    assert row.denied_accounts == {"x"}
    assert row.groups == {"g"}
    # A name cannot forge a field: it would come twice, or have no name before it.
    for bad in (
        RESERVATION.replace("Name=a", "Name=a Users=carol"),
        RESERVATION.replace("Name=a", "Name=a b"),
        RESERVATION.replace("EndTime=2026-11-20T19:33:52", "EndTime=N/A"),
        RESERVATION.replace("NodeCnt=1", "NodeCnt=one"),
    ):
        with pytest.raises(ClusterRefused):
            cluster_parsers.parse_reservations(answered(bad + "\n"))


def test_associations() -> None:
    text = "alice|x|one|x|gpu|normal,short|normal|10|20|1-00:00:00|\nalice|x|two||||||||\n"
    (row,) = cluster_parsers.parse_associations(answered(text))
    assert (row.cluster, row.association.default, row.association.partition) == ("one", True, "gpu")
    assert row.association.max_walltime == timedelta(days=1)
    assert (row.association.max_jobs, row.association.max_submitted) == (10, 20)
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_associations(answered("alice|x|one|x|||n|many|||\n"))


def test_small_answers() -> None:
    config = answered("Configuration data as of now\nClusterName             = testbed\n")
    assert cluster_parsers.parse_cluster_name(config) == "testbed"
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_cluster_name(answered("ClusterName =\n"))
    assert cluster_parsers.parse_words(answered("alice staff\n")) == {"alice", "staff"}
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_version(answered("bash: sinfo\n"))
