"""Which of our languages a browser asks for."""

from __future__ import annotations

from gateway.text import LANGUAGES, Language


def parse_accept_language(header: str) -> Language:
    """Return the preferred of our languages in an ``Accept-Language`` header (RFC 9110, 12.5.4).

    Total: whatever is not understood counts as no preference, which is English.
    """
    best: tuple[float, Language] = (0.0, "en")
    for item in header[:1000].split(","):
        tag, *parameters = (part.strip() for part in item.split(";"))
        primary = tag.split("-")[0].lower()
        language = next((known for known in LANGUAGES if known == primary), None)
        if language is None:
            continue
        weight = _parse_weight(parameters)
        if weight > best[0]:
            best = (weight, language)
    return best[1]


def _parse_weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
