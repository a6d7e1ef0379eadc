"""The pure part of the edge."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tunnel.edge_answers import build_answer, parse_language, parse_request_head


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-CA,fr;q=0.9,en;q=0.8", "fr"),
        ("en-GB,en;q=0.9,fr;q=0.8", "en"),
        ("de,fr;q=0.5,en;q=0.2", "fr"),
        ("fr;q=0", "en"),
        ("FR", "fr"),
        ("fr;q=x", "en"),
        ("de", "en"),
        ("frr", "en"),
    ],
)
def test_language(header: str, language: str) -> None:
    assert parse_language(header) == language


@given(st.text(max_size=2000))
def test_any_language_header(header: str) -> None:
    assert parse_language(header) in ("en", "fr")


@given(st.binary(max_size=3000))
def test_any_bytes_get_a_whole_answer(data: bytes) -> None:
    answer = build_answer(parse_request_head(data), base_url="/user/a/", launch_page="/x")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    assert f"Content-Length: {len(body)}".encode() in head or not body


@given(st.text(max_size=100))
def test_head_is_never_echoed(word: str) -> None:
    head = parse_request_head(f"GET /{word} HTTP/1.1\r\nAccept: text/html\r\n\r\n".encode())
    fixed = build_answer(
        parse_request_head(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n"),
        base_url="/u/",
        launch_page="/x",
    )
    if head is not None and "accept" in head.headers and head.target.startswith("/"):
        assert build_answer(head, base_url="/u/", launch_page="/x") == fixed


def test_repeated_headers_are_joined() -> None:
    head = parse_request_head(b"GET / HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n")
    assert head is not None
    assert head.headers == {"a": "1, 2"}


def test_launch_page_is_escaped() -> None:
    head = parse_request_head(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n")
    answer = build_answer(head, base_url="/u/", launch_page='/"><script>')
    assert b"<script>" not in answer


def test_style_is_allowed_by_its_hash_only() -> None:
    head = parse_request_head(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n")
    page = build_answer(head, base_url="/u/", launch_page="/x").decode()
    style = re.search("<style>(.*)</style>", page)
    policy = re.search("Content-Security-Policy: (.*)\r\n", page)
    assert style is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'")
    assert "unsafe" not in policy[1]
