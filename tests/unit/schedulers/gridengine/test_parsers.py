"""The parsers are total: any text is parsed or not understood, and never says "gone"."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClusterRefused
from gateway.schedulers.gridengine import cluster_parsers, documents, parsers
from gateway.schedulers.gridengine.cluster_parsers import (
    InstanceRow,
    ProjectRow,
    QueueConfiguration,
    build_associations,
    build_partitions,
)
from tests.unit.schedulers.gridengine.recordings import BED, PROFILE, answered, asked

JOB = (
    "<job_list state='running'><JB_job_number>17</JB_job_number><JB_owner>alice</JB_owner>"
    "<state>r</state><JAT_start_time>2026-11-20T18:53:08</JAT_start_time>"
    "<queue_name>small.q@c3</queue_name><slots>2</slots></job_list>"
)
INSTANCE = (
    "<Queue-List><name>small.q@c3</name><slots_used>0</slots_used><slots_resv>0</slots_resv>"
    "<slots_total>8</slots_total></Queue-List>"
)
RECORD = "=====\njobnumber 17\nfailed 0\nexit_status 0\nslots 1\n"

PARSERS: list[Callable[[str], object]] = [
    parsers.parse_queue,
    parsers.parse_reasons,
    parsers.parse_accounting,
    lambda text: cluster_parsers.parse_instances(text, PROFILE),
    cluster_parsers.parse_queue_configurations,
    cluster_parsers.parse_names,
    cluster_parsers.parse_projects,
    cluster_parsers.parse_access_lists,
    cluster_parsers.parse_default_project,
    cluster_parsers.parse_reservation_ids,
    cluster_parsers.parse_reservations,
    cluster_parsers.parse_version,
]
PIECES = st.sampled_from(
    (
        *"<>&;=:\n ",
        *(JOB, INSTANCE, RECORD, "<job_info>", "</job_info>", "<qrstat>", "</qrstat>", "17"),
        *("<ar_summary>", "</ar_summary>", "<id>", "</id>", "&#1;", "&x;", "<!DOCTYPE a>", "\x00"),
        *("qname a\n", "pe_list smp,[a=b]\n", "name a\n", "acl x\n", "9" * 30, "²", "\ud800"),
        *("<detailed_job_info><djob_info><element>", "</element></djob_info></detailed_job_info>"),
    )
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=25).map("".join))


@pytest.mark.parametrize("parse", PARSERS)
@given(text=TEXTS, whole=st.booleans())
def test_any_text(parse: Callable[[str], object], text: str, whole: bool) -> None:
    with suppress(ClusterRefused):
        parse(answered(text) if whole else text)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=TEXTS)
def test_no_answer_without_its_end(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ClusterRefused):
        parse(text)


def jobs(*written: str) -> str:
    return answered(f"<?xml version='1.0'?>\n<job_info>{''.join(written)}</job_info>\n")


@given(cut=st.integers(min_value=0, max_value=len(jobs(JOB)) - 1))
def test_no_half_document(cut: int) -> None:
    with pytest.raises(ClusterRefused):
        parsers.parse_queue(jobs(JOB)[:cut])


@pytest.mark.parametrize(
    "bad",
    [
        "<!DOCTYPE job_info [<!ENTITY a 'b'>]><job_info>&a;</job_info>",
        "<job_info><![CDATA[x]]></job_info>",
        "<job_info>&unknown;</job_info>",
        "<job_info></job_info><job_info/>",
        "<html></html>",
        "<job_info>" + JOB.replace("<state>r<", "<state>r r<") + "</job_info>",
        "<job_info>" + JOB.replace(">17<", ">17.1<") + "</job_info>",
        "<job_info>" + JOB.replace(">alice<", "><") + "</job_info>",
        "<job_info>" + JOB.replace("@c3", "") + "</job_info>",
        "<job_info>" + JOB.replace("T18:", " 18:") + "</job_info>",
        "<job_info>" + JOB.replace("-11-", "-13-") + "</job_info>",
        "<job_info>" + JOB.replace(">2<", ">two<") + "</job_info>",
    ],
)
def test_documents_that_are_refused(bad: str) -> None:
    with pytest.raises(ClusterRefused) as caught:
        parsers.parse_queue(answered(bad))
    assert caught.value.reason == "not_understood"


def test_a_document_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SIZE_LIMIT", 10)
    with pytest.raises(ClusterRefused, match="too large"):
        parsers.parse_queue(jobs(JOB))


def test_words_of_users_stay_words() -> None:
    odd = JOB.replace("<slots>", "<JB_name>a\x01\ufffe&lt;/x&gt;</JB_name><slots>")
    (row,) = parsers.parse_queue(jobs(odd))
    assert row.name == "a??</x>"


def test_a_job_that_is_listed_twice() -> None:
    (row,) = parsers.parse_queue(jobs(JOB, JOB))
    assert row.several
    (row,) = parsers.parse_queue(jobs(JOB))
    assert not row.several
    assert row.walltime is None
    (finer,) = parsers.parse_queue(jobs(JOB.replace(":08<", ":08.117<")))
    assert finer == row


@pytest.mark.parametrize(
    "record",
    [
        "",
        "jobnumber 17\n",
        RECORD + "failed 37\n",
        RECORD.replace("17", "x"),
        RECORD.replace("failed 0", "failed no"),
        RECORD.replace("exit_status 0\n", ""),
        RECORD + "end_time  yesterday\n",
        RECORD + "end_time  Fri Foo 20 18:53:08 2026\n",
        RECORD + "end_time  Tue Feb 30 18:53:08 2026\n",
    ],
)
def test_records_that_are_refused(record: str) -> None:
    with pytest.raises(ClusterRefused):
        parsers.parse_accounting(answered(record))


def test_records_of_other_versions() -> None:
    times = (
        "qsub_time 11/20/2026 18:53:08.123\nstart_time Thu Jan  1 00:00:00 1970\n\nend_time -/-\n"
    )
    (row,) = parsers.parse_accounting(answered(RECORD + times))
    assert row.submitted_at == datetime(2026, 11, 20, 18, 53, 8, tzinfo=UTC)
    assert (row.started_at, row.ended_at, row.memory_used, row.requests) == (None, None, 0.0, {})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("600", 600), ("1:2:3", 3723), ("168:00:00", 604800), ("INFINITY", None), ("", None)],
)
def test_durations(value: str, seconds: int | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert parsers.parse_duration(value) == expected


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("100M", 100 * 1024**2),
        ("1.500G", 1.5 * 1024**3),
        ("275.484MB", 275.484 * 1024**2),
        ("0.000B", 0),
        ("2k", 2000),
        ("8.000000", 8),
        ("INFINITY", None),
    ],
)
def test_memory(value: str, size: float | None) -> None:
    assert parsers.parse_memory(value) == size


@pytest.mark.parametrize("value", ["", "x", "17\n18\n", "17", "0\n", "17.1-3:1\n", "Warning\n17\n"])
def test_no_job_id(value: str) -> None:
    assert parsers.parse_submitted(value) is None


def test_reasons_of_an_odd_document() -> None:
    bad = "<detailed_job_info><djob_info><element><JB_job_number>x</JB_job_number></element>"
    with pytest.raises(ClusterRefused):
        parsers.parse_reasons(answered(bad + "</djob_info></detailed_job_info>"))


def test_remarks_about_other_queues() -> None:
    written = asked(BED, "qstat-j-xml").text
    other = written.replace("queue instance &quot;small.q@c3", "queue instance &quot;other.q@c3")
    assert any("is full" in reason for reason in parsers.parse_reasons(written).values())
    assert not any("is full" in reason for reason in parsers.parse_reasons(other).values())


def test_no_reason() -> None:
    silent = "<detailed_job_info><djob_info><element><JB_job_number>7</JB_job_number></element>"
    assert parsers.parse_reasons(answered(silent + "</djob_info></detailed_job_info>")) == {}


@pytest.mark.parametrize(
    "written",
    [
        "<id>1</id><start_time>2026-11-20T18:53:08</start_time>",
        "<id>1</id><end_time>2026-11-20T18:53:08</end_time>",
        "<id>x</id><start_time>2026-11-20T18:53:08</start_time>"
        "<end_time>2026-11-20T18:53:08</end_time>",
    ],
)
def test_reservations_that_are_refused(written: str) -> None:
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_reservations(
            answered(f"<qrstat><ar_summary>{written}</ar_summary></qrstat>")
        )


def test_a_reservation_of_its_owner_in_two_queues() -> None:
    written = asked(BED, "qrstat-ar-xml").text.replace("<acl ", "<x ")
    more = '<granted_slots queue_instance="other.q@c9" slots="1"/></granted_slots_list>'
    row, _ = cluster_parsers.parse_reservations(written.replace("</granted_slots_list>", more))
    assert (row.users, row.partition, row.nodes) == (frozenset({"observer"}), None, 2)


def instance(queue: str = "a.q", node: str = "c1", **changes: object) -> InstanceRow:
    values: dict[str, object] = {
        "usable": True,
        "slots": 8,
        "slots_used": 0,
        "slots_free": 8,
        "memory": None,
        "walltime": None,
        "gpus_free": 0,
        "gpus_used": 0,
        **changes,
    }
    return InstanceRow(queue=queue, node=node, **values)  # type: ignore[arg-type]


def test_partitions_of_many_kinds() -> None:
    rows = [
        instance(walltime=3600.0),
        instance(node="c2", walltime=7200.0, usable=False, gpus_used=3),
        instance(queue="b.q", walltime=3600.0),
        instance(queue="b.q", node="c2"),
    ]
    configurations = {
        "a.q": QueueConfiguration("a.q", None, frozenset({"physics"})),
        "gone.q": QueueConfiguration("gone.q", frozenset(), None),
    }
    a, b, gone = build_partitions(rows, configurations, PROFILE)
    assert (a.max_walltime, a.nodes_total, a.nodes_free) == (timedelta(hours=2), 2, 1)
    assert (a.cores_total, a.cores_free, a.allowed_accounts) == (16, 8, frozenset({"physics"}))
    assert [(kind.total, kind.free) for kind in a.gpus] == [(3, 0)]
    # A node without a limit: the queue has none.
    assert (b.max_walltime, b.cores_largest_node, b.allowed_accounts) == (None, 8, None)
    assert (gone.up, gone.cores_largest_node, gone.max_walltime) == (False, 0, None)


def test_gpus_per_slot_and_load_values() -> None:
    per_slot = PROFILE.model_copy(update={"gpu_per": "slot"})
    text = asked(BED, "qstat-f-F-r-xml").text
    used = {one.queue: one.gpus_used for one in cluster_parsers.parse_instances(text, per_slot)}
    assert used["gpu.q"] == 2  # one for each of two slots
    load = text.replace('name="gpu" type="hc"', 'name="gpu" type="hl"')
    assert {one.gpus_free for one in cluster_parsers.parse_instances(load, PROFILE)} == {0}
    without = PROFILE.model_copy(update={"gpu_complex": None})
    assert {one.gpus_free for one in cluster_parsers.parse_instances(text, without)} == {0}


def test_a_queue_instance_that_takes_no_jobs() -> None:
    for state, usable in (("", True), ("a", True), ("d", False), ("au", False), ("E", False)):
        written = INSTANCE.replace("</Queue", f"<state>{state}</state></Queue")
        (row,) = cluster_parsers.parse_instances(jobs(written), PROFILE)
        assert row.usable is usable


def test_configurations_that_differ_between_nodes() -> None:
    written = "qname a.q\npe_list smp make,[c1=other]\nprojects NONE,[c1=physics], \\\n  [c2=x]\n\n"
    found = cluster_parsers.parse_queue_configurations(answered(written))
    assert found["a.q"] == QueueConfiguration("a.q", None, None)
    with pytest.raises(ClusterRefused):
        cluster_parsers.parse_queue_configurations(answered("hostlist x\n"))


def test_projects_for_all_and_for_none() -> None:
    projects = [
        ProjectRow("open"),
        ProjectRow("barred", denied=frozenset({"staff"})),
        ProjectRow("ours", allowed=frozenset({"staff", "lost"})),
    ]
    lists = {"staff": frozenset({"@physics"})}
    members = frozenset({"alice", "@physics"})
    found = build_associations(projects, lists, members, "open")
    assert [(one.account, one.default) for one in found] == [("open", True), ("ours", False)]
    found = build_associations(projects, lists, frozenset({"bob"}), None)
    assert [one.account for one in found] == ["open", "barred"]
    assert (
        cluster_parsers.parse_default_project(answered("name bob\ndefault_project NONE\n")) is None
    )
