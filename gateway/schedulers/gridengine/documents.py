"""Reads the XML that Grid Engine prints. Pure and total.

The answers carry words of users (names of jobs, values of variables). A document with a declaration
of any kind is refused, so nothing can be expanded; characters that XML does not know, which 8.1.9
prints as they are, become question marks.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from xml.etree.ElementTree import Element, ParseError, XMLParser

from gateway.schedulers.answers import cut_closing_line, not_understood

SIZE_LIMIT: Final = 64 * 1024 * 1024
# XML 1.0, 2.2; references to characters that it leaves out.
_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Some descendants of 6.2u5 print milliseconds.
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,6})?", re.ASCII
)


def parse_document(output: str, *roots: str) -> Element:
    """The root element, which must be one of ``roots``, of a complete answer.

    :raises ClusterRefused: it is not such a document, is cut off, or holds a declaration.
    """
    return parse_xml(cut_closing_line(output), *roots)


def parse_xml(written: str, *roots: str) -> Element:
    """The same for an answer without a closing line."""
    if len(written) > SIZE_LIMIT:
        raise not_understood("a document that is too large", written[:200])
    if "<!" in written:
        raise not_understood("a document with declarations", written[written.index("<!") :])
    parser = XMLParser()  # noqa: S314 - without declarations there is nothing to expand
    try:
        parser.feed(_NOT_XML.sub("?", written))
        root: Element = parser.close()
    except ParseError as error:
        raise not_understood(f"not XML ({error})", written[-200:]) from error
    if root.tag not in roots:
        raise not_understood("another document", root.tag)
    return root


def read_text(element: Element, name: str) -> str:
    """The text of the first child of that name, "" when there is none."""
    return (element.findtext(name) or "").strip()


def read_number(element: Element, name: str) -> int:
    """A whole number; 0 when it is absent."""
    value = read_text(element, name) or "0"
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise not_understood(name, value)
    return int(value)


def read_time(element: Element, name: str) -> datetime | None:
    """A time as Grid Engine prints it under ``TZ=UTC0``; ``None`` when it is absent."""
    value = read_text(element, name)
    if not value:
        return None
    if match := _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise not_understood(name, value)
