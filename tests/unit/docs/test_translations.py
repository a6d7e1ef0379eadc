"""Every sentence has its French, with the same placeholders."""

from __future__ import annotations

from collections import Counter
from string import Formatter

from babel.messages.pofile import read_po

from tests.unit.docs.source import PACKAGE, find_page_texts, find_texts

CATALOGUE = PACKAGE / "locale" / "fr" / "LC_MESSAGES" / "gateway.po"


def _placeholders(template: str) -> Counter[str]:
    return Counter(name for _, name, _, _ in Formatter().parse(template) if name is not None)


def _entries() -> dict[str, str]:
    with CATALOGUE.open("rb") as stream:
        catalogue = read_po(stream, locale="fr")
    return {str(m.id): str(m.string) for m in catalogue if m.id and not m.fuzzy}


def test_every_sentence_is_translated() -> None:
    texts = find_texts() | find_page_texts()
    assert len(texts) > 200, "the scan has lost its way"
    french = _entries()
    missing = {template: where for template, where in texts.items() if not french.get(template)}
    assert not missing, "\n".join(f"{where}: {template}" for template, where in missing.items())


def test_translations_keep_the_placeholders() -> None:
    wrong = [
        (english, french)
        for english, french in _entries().items()
        if french and set(_placeholders(english)) != set(_placeholders(french))
    ]
    assert not wrong


def test_no_sentence_is_there_twice() -> None:
    lines = CATALOGUE.read_text(encoding="utf-8").splitlines()
    ids = Counter(line for line in lines if line.startswith("msgid ") and line != 'msgid ""')
    assert not [line for line, count in ids.items() if count > 1]
