"""States, ends and reasons of PBS; whatever a job's attributes hold, no exception and no end
without evidence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClusterRefused, GatewayError, RequestRejected, SubmitAmbiguous
from gateway.profiles.models import PbsSchedulerProfile
from gateway.schedulers.answers import cut_closing_line
from gateway.schedulers.base import GpuKind
from gateway.schedulers.command_environment import ANSWERED
from gateway.schedulers.pbs import cluster_parsers, parsers, refusals, values
from gateway.schedulers.pbs.reasons import explain_waiting
from gateway.schedulers.pbs.states import STATES, build_end, build_status
from gateway.transport.base import CommandResult
from gateway.values.jobs import JobId, JobState, Outcome
from gateway.values.resources import GpuRequest, MemorySize, ResourceRequest

JOB = JobId("1.pbs")
FOUR_GB = {"mem": "4gb"}
# qstat(1B), the column S.
NATIVE = "BEFHMQRSTUWX"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    [
        *("comment", "substate", "Exit_status", "Resource_List", "resources_used", "exec_host"),
        *("stime", "obittime", "history_timestamp", "run_count", "estimated", "Hold_Types"),
        *("Job_Name", "queue", "ctime", "depend", "reserve_ID", "Job_Owner"),
    ]
)


def never(native: str) -> None:
    raise AssertionError(native)


def test_every_state_of_the_manual_is_known() -> None:
    assert set(STATES) == set(NATIVE)


@given(st.text(), st.dictionaries(names, json_values))
def test_any_attributes(state: str, attributes: dict[str, Any]) -> None:
    status = build_status(JOB, {**attributes, "job_state": state}, lambda _: None)
    assert (status.state is JobState.FINISHED) == (state in ("F", "X"))
    assert (status.end is not None) == (status.state is JobState.FINISHED)
    if state not in STATES:
        assert status.state is JobState.UNKNOWN
    for words in (status.reason_words, status.end.words if status.end else None):
        if words is not None:
            assert words.render("en")
            assert words.render("fr")


@given(st.text(), st.text(), st.text(), st.booleans())
def test_any_comment(state: str, holds: str, comment: str, depends: bool) -> None:
    assert explain_waiting(state, holds, comment, depends=depends).render("fr")


@given(st.text() | st.sampled_from(["", "Resv ID: R1", "reserve_state = RESV_RUNNING"]))
def test_any_output_is_parsed_or_refused(output: str) -> None:
    profile = PbsSchedulerProfile(kind="pbs")
    for parse in (
        lambda: parsers.parse_jobs(output, [JOB]),
        lambda: parsers.parse_job_line(output, JOB),
        lambda: parsers.parse_ids(output),
        lambda: parsers.parse_version(output),
        lambda: parsers.parse_submitted(output),
        lambda: cluster_parsers.parse_nodes(output, profile),
        lambda: cluster_parsers.parse_partitions(output, output, []),
        lambda: cluster_parsers.parse_reservations(output),
    ):
        try:
            parse()
        except ClusterRefused as error:
            assert error.reason == "not_understood"  # noqa: PT017


@given(json_values, st.sampled_from(["Jobs", "Queue", "nodes", "Server"]))
def test_any_json(value: object, section: str) -> None:
    document = json.dumps({"timestamp": 1, section: value})
    nested = json.dumps({"timestamp": 1, section: {"a": value, "b": {"queue": value}}})
    profile = PbsSchedulerProfile(kind="pbs", gpu_kind_resource="kind")
    for output in (document, nested):
        for parse in (
            lambda output=output: parsers.parse_jobs(output, [JOB]),
            lambda output=output: cluster_parsers.parse_partitions(
                output, output, cluster_parsers.parse_nodes(output, profile)
            ),
        ):
            try:
                parse()
            except ClusterRefused as error:
                assert error.reason == "not_understood"  # noqa: PT017


@given(st.integers(1, 255), st.text(), st.text())
def test_any_failure_has_an_error(status: int, out: str, err: str) -> None:
    printed, said = (words.encode(errors="replace") for words in (out, err))
    result = CommandResult(("x",), status, printed, said, 0.1)
    request = ResourceRequest("a", timedelta(hours=1), 1, MemorySize(1), GpuRequest(1))
    assert isinstance(refusals.explain_refusal(result, request, "ngpus"), GatewayError)
    assert isinstance(refusals.explain_failure(result, "qstat"), GatewayError)
    refusals.explain_cancel(result)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (170, "qsub: Unknown queue", RequestRejected),
        (170, "", SubmitAmbiguous),
        # Errors that no recording has.
        (190, "qsub: Checkpoint not possible", RequestRejected),
        (190, "something else", SubmitAmbiguous),
        (164, "qsub: System error", SubmitAmbiguous),
        (185, "qsub: Premature end of message", SubmitAmbiguous),
        (143, "", SubmitAmbiguous),
        (2, "qsub: illegal -k value", RequestRejected),
        (1, "qsub: cannot connect to server", SubmitAmbiguous),
        (1, "", SubmitAmbiguous),
        (77, "qsub: what?", SubmitAmbiguous),
    ],
)
def test_what_is_a_refusal(status: int, said: str, kind: type[GatewayError]) -> None:
    result = CommandResult(("x",), status, b"", said.encode(), 0.1)
    request = ResourceRequest("a", timedelta(hours=1), 1, MemorySize(1))
    assert type(refusals.explain_refusal(result, request, "ngpus")) is kind


@pytest.mark.parametrize(
    ("attributes", "outcome", "words"),
    [
        ({"Exit_status": 0, "substate": 92}, Outcome.COMPLETED, "came to its end"),
        ({"Exit_status": 9, "substate": 93}, Outcome.FAILED, "exit code 9"),
        ({"Exit_status": 265, "substate": 93}, Outcome.FAILED, "signal 9 (SIGKILL)"),
        # 128 and a number that is no signal: the script's own.
        ({"Exit_status": 253, "substate": 93}, Outcome.FAILED, "exit code 253"),
        ({"Exit_status": 128, "substate": 93}, Outcome.FAILED, "exit code 128"),
        ({"Exit_status": 271, "substate": 93}, Outcome.CANCELLED, "was cancelled."),
        ({"Exit_status": -29}, Outcome.WALLTIME, "its time limit."),
        (
            {"Exit_status": 271, "comment": "Job run and exceeded resource walltime"},
            Outcome.WALLTIME,
            "time limit",
        ),
        ({"Exit_status": -27, "Resource_List": FOUR_GB}, Outcome.OUT_OF_MEMORY, "than the 4G"),
        ({"Exit_status": -26}, Outcome.OUT_OF_MEMORY, "it had asked for"),
        (
            {"Exit_status": 137, "comment": "Job run and exceeded resource mem"},
            Outcome.OUT_OF_MEMORY,
            "memory",
        ),
        (
            {
                "Exit_status": 137,
                "Resource_List": FOUR_GB,
                "resources_used": {"mem": "4194304kb"},
            },
            Outcome.OUT_OF_MEMORY,
            "memory",
        ),
        (
            {"Exit_status": 137, "Resource_List": FOUR_GB, "resources_used": {"mem": "1gb"}},
            Outcome.FAILED,
            "signal 9",
        ),
        ({"Exit_status": -25}, Outcome.FAILED, "more cores"),
        ({"Exit_status": -28}, Outcome.FAILED, "CPU time"),
        ({"Exit_status": -99}, Outcome.FAILED, "status -99"),
        ({"Exit_status": -1}, Outcome.NOT_STARTED, "status -1"),
        ({"Exit_status": -4}, Outcome.NODE_FAILURE, "compute node failed"),
        ({"substate": 92}, Outcome.NOT_STARTED, "gave it up"),
        ({"substate": 92, "depend": "afterok:7.pbs@pbs"}, Outcome.NOT_STARTED, "another job"),
        (
            {"substate": 91, "comment": "job held, too many failed attempts to run"},
            Outcome.NOT_STARTED,
            "gave it up",
        ),
        (
            {"substate": 91, "comment": "Job run and terminated by root@pbs"},
            Outcome.CANCELLED,
            "administrator",
        ),
        (
            {"substate": 91, "comment": "Job run and terminated by bob@pbs"},
            Outcome.CANCELLED,
            "user bob",
        ),
    ],
)
def test_ends(attributes: dict[str, Any], outcome: Outcome, words: str) -> None:
    end = build_end({"Job_Owner": "alice@pbs", **attributes})
    assert end.outcome is outcome
    assert words in end.words.render()
    assert end.words.render("fr") != end.words.render()


@pytest.mark.parametrize(
    ("state", "holds", "comment", "words"),
    [
        ("T", "n", "", "on its way"),
        ("Q", "n", "", "not looked at"),
        ("Q", "n", "Job was sent for execution at Fri", "not looked at"),
        ("H", "o", "", "operator"),
        ("H", "us", "", "scheduler or an administrator"),
        ("H", "z", "", "scheduler or an administrator"),
        ("Q", "n", "Not Running: Insufficient amount of resource: Qlist", "to be free (Qlist)"),
        ("Q", "n", "Not Running: Job would conflict with reservation or top job", "Other jobs"),
        ("Q", "n", "Not Running: Something new.", "The scheduler says: Something new."),
    ],
)
def test_reasons(state: str, holds: str, comment: str, words: str) -> None:
    found = explain_waiting(state, holds, comment)
    assert words in found.render()
    assert found.render("fr") != found.render()


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("Fri Nov  6 08:05:09 2026", datetime(2026, 11, 6, 8, 5, 9, tzinfo=UTC)),
        ("86400", datetime(1970, 1, 2, tzinfo=UTC)),
        ("Fri Nov 31 08:05:09 2026", None),
        ("Fri Xyz 30 08:05:09 2026", None),
        ("soon", None),
        (10**12, None),
        (True, None),
        (None, None),
    ],
)
def test_moments(value: object, moment: datetime | None) -> None:
    assert values.read_moment(value) == moment


def test_runs_are_counted() -> None:
    told = [("Q", None), ("R", 1), ("Q", 1), ("R", 2), ("F", 2)]
    seen = [build_status(JOB, {"job_state": state, "run_count": n}, never) for state, n in told]
    assert [status.restarts for status in seen] == [0, 0, 1, 1, 1]


def test_amounts() -> None:
    assert values.read_duration("336:00:01") == timedelta(days=14, seconds=1)
    assert values.read_duration("10:00") == timedelta(minutes=10)
    assert values.read_duration(90) == timedelta(seconds=90)
    assert values.read_duration(-1) is None
    assert values.read_duration("unlimited") is None
    sizes = ["8gb", "102400kb", "1048576b", 2097152, "1TB", "128mw", "much", None]
    assert [values.read_mib(size) for size in sizes] == [8192, 100, 1, 2, 2**20, 1024, None, None]
    assert values.read_hosts("c1/0*4+c2/1*2+c1/1") == ("c1", "c2")
    far = {"job_state": "R", "exec_host": "c1/0", "stime": "Fri Dec 31 23:59:59 9999"}
    assert build_status(JOB, {**far, "Resource_List": {"walltime": 1}}, never).ends_at is None


def queue(**attributes: object) -> dict[str, object]:
    return {"queue_type": "Execution", "enabled": "True", "started": "True", **attributes}


def node(name: str, **attributes: Any) -> dict[str, object]:
    available = {"ncpus": 8, "mem": "16gb", **attributes.pop("has", {})}
    return {"state": "free", "resources_available": available, **attributes}


def section(name: str, found: object) -> str:
    return json.dumps({"timestamp": 1, name: found})


def test_queues_of_a_larger_cluster() -> None:
    profile = PbsSchedulerProfile(kind="pbs", gpu_kind_resource="gpu_type")
    gpus = {"ngpus": 4, "gpu_type": "a100", "host": "g1", "Qlist": "gpu,long"}
    nodes = cluster_parsers.parse_nodes(
        section(
            "nodes",
            {
                # Two vnodes of one host.
                "g1[0]": node("g1", has=gpus, resources_assigned={"ngpus": 1, "ncpus": 2}),
                "g1[1]": node("g1", has=gpus),
                "c1": node("c1", has={"Qlist": "batch", "ngpus": 0}),
                "c2": node("c2", state="job-busy", has={"Qlist": "batch"}),
                "c3": node("c3", state="down,offline", has={"Qlist": "batch"}),
                "t1": node("t1", queue="test"),
            },
        ),
        profile,
    )
    found = {
        one.name: one
        for one in cluster_parsers.parse_partitions(
            section(
                "Queue",
                {
                    "gpu": queue(
                        default_chunk={"Qlist": "gpu", "ncpus": 1, "mem": "1gb"},
                        resources_max={"mem": "8gb", "ncpus": 4},
                        acl_group_enable="True",
                        acl_groups="+ocean,-staff,physics@pbs",
                    ),
                    "batch": queue(default_chunk={"Qlist": "batch"}),
                    "test": queue(),
                    "in": queue(
                        queue_type="Route", route_destinations="gpu,batch,in,nosuch@elsewhere"
                    ),
                    "empty": queue(default_chunk={"Qlist": "none"}),
                    "R7": queue(acl_user_enable="True"),
                    "R8": queue(),
                },
            ),
            section(
                "Server",
                {"pbs": {"default_queue": "in", "resources_max": {"walltime": "24:00:00"}}},
            ),
            nodes,
        )
    }
    assert set(found) == {"gpu", "batch", "test", "in", "empty", "R8"}
    gpu = found["gpu"]
    assert gpu.gpus == (GpuKind("a100", total=8, free=7, largest_node=8),)
    assert (gpu.cores_total, gpu.cores_free, gpu.cores_largest_node) == (16, 14, 4)
    assert (gpu.nodes_total, gpu.nodes_free) == (1, 0)
    assert gpu.memory_largest_node == MemorySize(8192)
    assert gpu.max_walltime == timedelta(hours=24)
    assert gpu.allowed_groups == frozenset({"ocean", "physics"})
    batch = found["batch"]
    assert (batch.cores_total, batch.cores_free, batch.nodes_free) == (24, 8, 1)
    assert batch.gpus == ()
    assert batch.allowed_groups is None
    assert found["test"].cores_total == 8
    assert (found["in"].cores_total, found["in"].default) == (40, True)
    assert (found["empty"].cores_total, found["empty"].memory_largest_node) == (0, None)
    assert cluster_parsers.parse_partitions(section("Queue", {}), section("Server", {}), []) == ()


def test_reservations_that_are_odd() -> None:
    long = (
        "Resv ID: R1.pbs\nreserve_state = RESV_RUNNING\nqueue = R1\n"
        "reserve_start = Fri Nov 20 19:21:23 2026\nreserve_end = 1795210000\n"
        "resv_nodes = (c1:ncpus=2)+(c2:ncpus=2)\n\t+(c3[0]:ncpus=2)+(c3[1]:ncpus=2)\n"
        "Authorized_Users = -bob,alice@login\n\n"
    )
    (row,) = cluster_parsers.parse_reservations(long)
    assert row.reservation.nodes == 3
    assert row.reservation.users == {"alice"}
    assert cluster_parsers.parse_reservations(long.replace("RUNNING", "UNCONFIRMED")) == ()
    for broken in (long[long.index("reserve_") :], long.replace("queue = R1\n", "")):
        with pytest.raises(ClusterRefused):
            cluster_parsers.parse_reservations(broken)


def test_half_an_answer() -> None:
    with pytest.raises(ClusterRefused):
        cut_closing_line("1.pbs\n")
    assert cut_closing_line(f"1.pbs\n{ANSWERED}\n") == "1.pbs\n"


def test_a_job_that_another_one_swallowed() -> None:
    inside = json.dumps(
        {"timestamp": 1, "Jobs": {"2.pbs": {"job_state": "R", "Job_Owner": "b@x", "A": {JOB: 1}}}}
    )
    with pytest.raises(ClusterRefused):
        parsers.parse_jobs(inside, [JOB, JobId("2.pbs")])
    assert set(parsers.parse_jobs(inside, [JobId("2.pbs")]).jobs) == {"2.pbs"}
