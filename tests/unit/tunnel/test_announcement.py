"""The announcement's grammar: everything in it is the job's own word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClusterRefused, GatewayError, NotAnnounced
from gateway.tunnel.announcement import parse_announcement
from gateway.tunnel.base import TunnelTarget
from gateway.values.endpoints import Announcement
from gateway.values.identity import ClusterUser

TARGET = TunnelTarget(
    launch_id="00aa11bb22cc33dd",
    user=ClusterUser("c", "alice"),
    node="c1",
    launch_directory="/home/alice/l",
    hub_api_socket=Path("/run/x.sock"),
    stale_nonce="e" * 32,
)
GOOD: dict[str, Any] = {
    "launch_id": "00aa11bb22cc33dd",
    "protocol": 1,
    "host": "c1.cluster",
    "pid": 4711,
    "directory": "/tmp/lf0a1b2c",
    "nonce": "0" * 32,
    "port": None,
    "key_sha256": None,
}


def parse(**changes: object) -> Announcement:
    return parse_announcement(json.dumps({**GOOD, **changes}).encode(), TARGET)


def test_good() -> None:
    assert parse() == Announcement(**GOOD)
    assert parse(port=40000, key_sha256="a" * 64).port == 40000
    assert parse(later="ignored") == Announcement(**GOOD)


def test_modes_without_tcp_may_leave_fields_out() -> None:
    fields = {k: v for k, v in GOOD.items() if v is not None}
    assert parse_announcement(json.dumps(fields).encode(), TARGET) == Announcement(**GOOD)


@pytest.mark.parametrize("data", [b"", b"\n", b" \n "])
def test_nothing_there(data: bytes) -> None:
    with pytest.raises(NotAnnounced):
        parse_announcement(data, TARGET)


def test_former_run() -> None:
    with pytest.raises(NotAnnounced):
        parse(nonce="e" * 32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"launch_id": "ffffffffffffffff"}, "other_launch"),
        ({"protocol": 2}, "protocol_version"),
        *[
            (changes, "bad_announcement")
            for changes in (
                {"launch_id": None},
                {"launch_id": "a\nb"},
                {"launch_id": 5},
                {"protocol": True},
                {"protocol": "1"},
                {"protocol": 0},
                {"host": ""},
                {"host": "c1;id"},
                {"host": "-oProxyCommand=id"},
                {"host": "c" * 300},
                {"host": "c1\n"},
                {"pid": 0},
                {"pid": -1},
                {"pid": 2**40},
                {"pid": 1.5},
                {"directory": "tmp/x"},
                {"directory": "/"},
                {"directory": "/tmp/../root"},
                {"directory": "/tmp//x"},
                {"directory": "/tmp/x/"},
                {"directory": "/tmp/./x"},
                {"directory": "/tmp/Xx"},
                {"directory": "/tmp/x y"},
                {"directory": "/tmp/x%2f"},
                {"directory": "/tmp/x\n"},
                {"directory": "/tmp/" + "x" * 80},
                {"directory": ["/tmp/x"]},
                {"nonce": "0" * 31},
                {"nonce": "0" * 33},
                {"nonce": "G" * 32},
                {"nonce": "0" * 32 + "\n"},
                {"nonce": None},
                {"port": 22},
                {"port": 0},
                {"port": 70000},
                {"port": "40000"},
                {"key_sha256": "z" * 64},
                {"key_sha256": 7},
            )
        ],
    ],
)
def test_bad_field(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ClusterRefused) as caught:
        parse(**changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 8000, b"{}" + b" " * 9000]
)
def test_bad_file(data: bytes) -> None:
    with pytest.raises(ClusterRefused):
        parse_announcement(data, TARGET)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)


@given(st.binary(max_size=10_000))
def test_any_bytes(data: bytes) -> None:
    _parse_or_refuse(data)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON))
def test_any_values(changes: dict[str, object]) -> None:
    _parse_or_refuse(json.dumps({**GOOD, **changes}).encode())


def _parse_or_refuse(data: bytes) -> None:
    try:
        announcement = parse_announcement(data, TARGET)
    except GatewayError:
        return
    assert announcement.launch_id == TARGET.launch_id
    assert ".." not in announcement.directory
    assert len(f"{announcement.directory}/hub-0123456789ab.sock".encode()) < 108
