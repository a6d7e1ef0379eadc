"""One line an event, no secret in it."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator

import pytest

from gateway.observability.logs import (
    MASK,
    KeyValueFormatter,
    SecretMask,
    format_value,
    log_event,
    secret_mask,
    setup_logging,
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = io.StringIO()
    setup_logging("INFO", made)
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)


def test_line_has_its_fields_and_stays_one_line(stream: io.StringIO) -> None:
    logger = logging.getLogger("gateway.test")
    log_event(
        logger,
        logging.INFO,
        "launch",
        user="alice",
        words='two\nlines and a "quote"',
        job=None,
        seconds=1.5,
    )
    (line,) = stream.getvalue().splitlines()
    assert " level=info logger=gateway.test event=launch user=alice " in line
    assert r'words="two\nlines and a \"quote\""' in line
    assert line.endswith("seconds=1.5")
    assert "job=" not in line


def test_levels(stream: io.StringIO) -> None:
    logging.getLogger("gateway.test").debug("too chatty")
    logging.getLogger("asyncssh").info("too chatty")
    logging.getLogger("gateway.test").warning("told")
    assert [line.split("event=")[1] for line in stream.getvalue().splitlines()] == ["told"]


def test_traceback_is_in_the_line_and_masked(stream: io.StringIO) -> None:
    secret_mask.hold("launch-1", "a-token-of-somebody", None, "short")
    try:
        raise ValueError("bad a-token-of-somebody short")
    except ValueError:
        log_event(logging.getLogger("gateway.test"), logging.ERROR, "fault", error=True)
    finally:
        secret_mask.release("launch-1")
    (line,) = stream.getvalue().splitlines()
    assert "Traceback" in line
    assert "a-token-of-somebody" not in line
    assert MASK in line
    assert "short" in line


def test_mask_of_a_whole_class_holds_nobody_up() -> None:
    mask = SecretMask()
    began = time.monotonic()
    for number in range(3000):
        mask.hold(str(number), f"token-of-launch-{number:08}")
    assert mask.apply("x token-of-launch-00002999 y") == f"x {MASK} y"
    assert time.monotonic() - began < 5


def test_mask_knows_whose_secrets_are_still_held() -> None:
    mask = SecretMask()
    mask.hold("one", "shared-secret")
    mask.hold("two", "shared-secret", "shared-secret-and-more")
    assert mask.apply("x shared-secret-and-more y") == f"x {MASK} y"
    mask.release("one")
    assert mask.apply("shared-secret") == MASK
    mask.release("two")
    mask.release("two")
    assert mask.apply("shared-secret") == "shared-secret"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("plain/1.2:x", "plain/1.2:x"), ("", '""'), ("a b", '"a b"'), (7, "7"), ("é", r'"\u00e9"')],
)
def test_format_value(value: object, shown: str) -> None:
    assert format_value(value) == shown


def test_long_values_are_cut_in_the_middle() -> None:
    shown = format_value("a" * 5000 + " " + "b" * 5000)
    assert len(shown) < 2100
    assert json.loads(shown).startswith("aaa")
    assert json.loads(shown).endswith("bbb")


def test_ordinary_records_of_other_libraries_are_formatted_too() -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "%s is %d", ("n", 3), None)
    assert KeyValueFormatter(SecretMask()).format(record).endswith('event="n is 3"')
