"""Sentences that people read, in English and French.

A :class:`Text` is a value: an English template (the gettext msgid) and its parameters. It is
rendered where it is shown, so the connector can store and send it without knowing the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, Literal

from babel.messages.pofile import read_po

Language = Literal["en", "fr"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "fr")


@dataclass(frozen=True, slots=True)
class Fixed:
    """Words that come in both languages already: a title that an admin wrote, or a sentence
    that another process has rendered."""

    en: str
    fr: str

    def render(self, language: Language = "en") -> str:
        """Return the words in ``language``."""
        return self.fr if language == "fr" else self.en

    def __str__(self) -> str:
        return self.en

    def as_dict(self) -> dict[str, str]:
        """Return ``{"en": …, "fr": …}``."""
        return {"en": self.en, "fr": self.fr}


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence: ``template`` uses ``str.format`` names, ``params`` fills them.

    A parameter may itself be words; it is rendered in the same language.
    """

    template: str
    params: Mapping[str, Param] = field(default_factory=dict)

    def render(self, language: Language = "en") -> str:
        """Return the sentence; an untranslated template is shown in English."""
        template = self.template
        if language != "en":
            template = _catalogue(language).get(template) or template
        if not self.params:
            return template
        return template.format(
            **{
                name: value.render(language) if isinstance(value, (Text, Fixed)) else value
                for name, value in self.params.items()
            }
        )

    def __str__(self) -> str:
        return self.render()

    def as_dict(self) -> dict[str, str]:
        """Return ``{"en": …, "fr": …}``, the shape used in JSON."""
        return {language: self.render(language) for language in LANGUAGES}


Words = Text | Fixed
Param = str | int | float | Text | Fixed


def text(template: str, /, **params: Param) -> Text:
    """Build a :class:`Text`; this call is what the message extraction looks for."""
    return Text(template, params)


@cache
def _catalogue(language: Language) -> dict[str, str]:
    # Read from the .po itself: no compiled file can go stale.
    path = resources.files("gateway") / "locale" / language / "LC_MESSAGES" / "gateway.po"
    with path.open("rb") as stream:
        entries = read_po(stream, locale=language)
    return {str(m.id): str(m.string) for m in entries if m.id and m.string and not m.fuzzy}
