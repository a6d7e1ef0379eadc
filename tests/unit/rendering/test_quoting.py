from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rendering.quoting import (
    DIRECTIVE,
    QuotingError,
    check_directive,
    quote_assignment,
    quote_word,
)

CONTROLS = ["\n", "\r", "\t", "\0", "\v", "\f", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]
PRINTABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=60)


@given(PRINTABLE)
def test_a_quoted_word_is_one_word(value: str) -> None:
    assert shlex.split(quote_word(value)) == [value]
    assert shlex.split(f"NAME={quote_assignment(value)}") == [f"NAME={value}"]


@settings(max_examples=25)
@given(st.lists(PRINTABLE, min_size=1, max_size=8))
def test_bash_reads_back_what_was_quoted(values: list[str]) -> None:
    words = " ".join(quote_word(value) for value in values)
    script = f"printf '%s\\0' {words}\nexport A={quote_assignment(values[0])}\nprintf '%s' \"$A\"\n"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    expected = "".join(f"{value}\0" for value in values) + values[0]
    assert done.stdout.decode() == expected


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("quote", [quote_word, quote_assignment, check_directive])
def test_control_characters_are_refused_in_every_context(quote: object, control: str) -> None:
    with pytest.raises(QuotingError):
        quote(f"debug{control}x")  # type: ignore[operator]


@pytest.mark.parametrize(
    "value",
    ["", "a b", "a'b", 'a"b', "a\\b", "a#b", "a;b", "$(id)", "`id`", "a\u00a0b", "é", "a&b", "<x>"],
)
def test_a_directive_refuses_what_it_cannot_carry(value: str) -> None:
    with pytest.raises(QuotingError, match="directive line"):
        check_directive(value)


@given(st.from_regex(DIRECTIVE, fullmatch=True))
def test_a_directive_keeps_plain_words(value: str) -> None:
    assert check_directive(value) == value


def test_numbers_are_printed() -> None:
    assert (quote_word(3), quote_assignment(2), check_directive(7)) == ("3", "'2'", "7")


@pytest.mark.parametrize("value", [None, True, ["a"], {"a": 1}, b"a"])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(QuotingError, match="cannot be printed"):
        quote_word(value)


def test_a_long_value_is_shown_short() -> None:
    with pytest.raises(QuotingError) as caught:
        check_directive("x " * 400)
    assert len(str(caught.value)) < 200
