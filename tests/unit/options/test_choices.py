from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RequestRejected
from gateway.options.choices import Choices, build_choices, check_options
from gateway.profiles.models import ClusterProfile
from gateway.schedulers.base import Association, GpuKind, Partition, Reservation
from gateway.text import LANGUAGES, Words, text
from gateway.values.resources import MemorySize

PROFILE = ClusterProfile.model_validate(
    {
        "name": "fir",
        "title": {"en": "Fir", "fr": "Sapin"},
        "scheduler": {"kind": "slurm"},
        "login": {"hosts": [{"host": "fir"}], "known_hosts": "/k"},
        "roles": {"observer": {"name": "watcher"}},
        "partitions": {
            "interactive": {"max_walltime": "8h", "max_cores": 16, "max_memory": "64G"},
            "gpu": {"max_walltime": "4h", "max_cores": 8, "max_memory": "20G", "max_gpus": 4},
            "gone": {"max_walltime": "4h", "max_memory": "20G"},
        },
        "environments": {"jupyter": {"title": {"en": "J", "fr": "J"}}},
    }
)
LIVE = Partition(
    name="interactive", up=True, default=True, max_walltime=timedelta(hours=6),
    default_walltime=None, cores_total=16, cores_free=3, cores_largest_node=8,
    memory_largest_node=MemorySize(20000), nodes_total=2, nodes_free=1,
)  # fmt: skip
GPU = replace(
    LIVE, name="gpu", gpus=(GpuKind("a100", 4, 1, 2), GpuKind("h100", 2, 2, 1)),
    allowed_accounts=frozenset({"rrg"}),
)  # fmt: skip
ACCOUNTS = (
    Association("def", ("normal",), default=True),
    Association("rrg", ("normal", "short")),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RESERVATION = Reservation(
    "class", NOW, NOW + timedelta(hours=2), True, 1, None, frozenset({"alice"}), frozenset(), False
)
GOOD: dict[str, Any] = {
    "cluster": "fir",
    "partition": "interactive",
    "environment": "jupyter",
    "walltime": "2:00:00",
    "cores": 2,
    "memory": "4G",
}


def choices() -> dict[str, Choices]:
    maintenance = replace(RESERVATION, name="maint", maintenance=True)
    return {"fir": build_choices(PROFILE, [LIVE, GPU], ACCOUNTS, [RESERVATION, maintenance])}


def test_live_values_narrow_and_never_widen() -> None:
    offers = choices()["fir"].partitions
    assert set(offers) == {"interactive", "gpu"}
    assert offers["interactive"].max_walltime == timedelta(hours=6)
    assert offers["interactive"].max_cores == 8
    assert offers["interactive"].max_memory == MemorySize(20000)
    assert offers["gpu"].max_walltime == timedelta(hours=4)
    assert [(g.kind, g.max) for g in offers["gpu"].gpus] == [("a100", 2), ("h100", 1)]
    assert set(choices()["fir"].reservations) == {"class"}


def test_the_profile_stands_when_the_scheduler_cannot_be_asked() -> None:
    offered = build_choices(PROFILE, None, None, [])
    assert not offered.live
    assert offered.partitions["interactive"].max_cores == 16
    assert check_options(GOOD, {"fir": offered}).account is None


def test_groups_close_a_partition() -> None:
    closed = replace(LIVE, allowed_groups=frozenset({"staff"}))
    assert not build_choices(PROFILE, [closed], [], [], frozenset({"users"})).partitions
    assert build_choices(PROFILE, [closed], [], [], frozenset({"staff"})).partitions
    assert build_choices(PROFILE, [closed], [], []).partitions


def test_a_good_request_gets_the_default_account() -> None:
    options = check_options(GOOD, choices())
    assert (options.account, options.walltime) == ("def", timedelta(hours=2))
    assert check_options(GOOD | {"partition": "gpu", "gpus": 2}, choices()).account == "rrg"


def test_an_account_passes_when_the_accounts_could_not_be_asked() -> None:
    offered = {"fir": build_choices(PROFILE, [LIVE, GPU], None, [])}
    assert check_options(GOOD | {"account": "rrg"}, offered).account == "rrg"
    assert check_options(GOOD, offered).account is None
    with pytest.raises(RequestRejected) as caught:
        check_options(
            GOOD | {"account": "rrg"}, {"fir": build_choices(PROFILE, [LIVE, GPU], [], [])}
        )
    assert set(caught.value.fields) == {"account"}


def test_listed_accounts_bound_those_of_the_scheduler() -> None:
    listed = PROFILE.model_copy(update={"accounts": ("rrg", "other")})
    assert [a.account for a in build_choices(listed, [LIVE], ACCOUNTS, []).accounts] == ["rrg"]
    assert len(build_choices(listed, [LIVE], None, []).accounts) == 2
    none = PROFILE.model_copy(update={"accounts": "none"})
    assert build_choices(none, [LIVE], ACCOUNTS, []).accounts == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "debug\n#SBATCH --comment=x"),
        ("partition", "interactive --uid=0"),
        ("partition", "interactive\t"),
        ("partition", "interactive;id"),
        ("partition", "$(id)"),
        ("partition", ""),
        ("partition", None),
        ("partition", ["interactive"]),
        ("partition", {"a": {"b": 1}}),
        ("partition", True),
        ("partition", "gone"),
        ("partition", "x" * 300),
        ("walltime", "infinite"),
        ("walltime", "-1"),
        ("walltime", 60),
        ("walltime", "99:00:00"),
        ("memory", "4G --exclusive"),
        ("memory", 4),
        ("memory", "900G"),
        ("cores", 0),
        ("cores", -1),
        ("cores", 1.5),
        ("cores", "2;reboot"),
        ("cores", 10**9),
        ("cores", True),
        ("cores", 9),
        ("gpus", 1),
        ("gpus", "2,shell"),
        ("gpu_kind", "a100"),
        ("account", "../x"),
        ("account", "other"),
        ("qos", "night"),
        ("reservation", "x\nUsers=bob"),
        ("reservation", "theirs"),
        ("environment", "nope"),
        ("start_directory", "/etc"),
        ("start_directory", "../../other"),
        ("start_directory", "~bob"),
        ("start_directory", "$(id)"),
        ("start_directory", "a\nb"),
        ("cluster", "oak"),
        ("cmd", "id"),
        ("__class__", "x"),
    ],
)
def test_a_bad_value_is_named_and_nothing_else_is(field: str, value: Any) -> None:
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD | {field: value}, choices())
    assert set(caught.value.fields) == {field}
    for language in LANGUAGES:
        sentence = caught.value.fields[field].render(language)
        assert sentence.isprintable()
        assert len(sentence) < 300


def test_an_account_of_another_partition_is_told() -> None:
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD | {"partition": "gpu", "account": "def", "gpus": 9}, choices())
    assert set(caught.value.fields) == {"account", "gpus"}


def test_a_gpu_kind_that_is_not_there() -> None:
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD | {"partition": "gpu", "gpus": 1, "gpu_kind": "v100"}, choices())
    assert "a100, h100" in caught.value.fields["gpu_kind"].render()


def test_a_closed_partition_and_an_account_where_there_is_none() -> None:
    offered = {"fir": build_choices(PROFILE, [replace(LIVE, up=False)], [], [])}
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD | {"account": "def"}, offered)
    assert set(caught.value.fields) == {"partition", "account"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "gpus", "account", "x"]), json_values))
def test_whatever_is_posted_is_accepted_or_refused_with_fields(raw: dict[str, Any]) -> None:
    fields: dict[str, Words] = {"none": text("accepted")}
    try:
        check_options(GOOD | raw, choices())
    except RequestRejected as error:
        fields = error.fields
    assert fields
    assert all(words.render().isprintable() for words in fields.values())


def test_paths_are_not_touched_by_validation(tmp_path: Path) -> None:
    assert check_options(GOOD | {"start_directory": "projects/été"}, choices()).start_directory == (
        "projects/été"
    )


def test_another_partition_is_the_default_when_the_usual_one_is_closed() -> None:
    named = PROFILE.model_copy(update={"default_partition": "gone"})
    assert build_choices(named, [LIVE, GPU], ACCOUNTS, []).default_partition == "interactive"


def test_what_fits_no_other_words_is_shown_escaped() -> None:
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD | {"gpus": float("nan")}, choices())
    assert set(caught.value.fields) == {"gpus"}
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD | {"qos": b"\xff"}, choices())
    assert "is not understood" in caught.value.fields["qos"].render()


def test_nothing_at_all_is_open() -> None:
    with pytest.raises(RequestRejected) as caught:
        check_options(GOOD, {})
    assert caught.value.fields["cluster"].render() == '"fir" is not open to you'


def test_options_that_were_checked_may_be_checked_again() -> None:
    options = check_options(GOOD, choices())
    amounts = {"memory": options.memory, "walltime": options.walltime}
    again = check_options(options.model_dump() | amounts, choices())
    assert again.walltime == timedelta(hours=2)
