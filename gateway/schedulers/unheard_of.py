"""Native job states that an adapter does not know: told, and logged once each."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class UnheardOf:
    """Called with every native state that is not known; tells ``listener`` each time."""

    def __init__(self, listener: Callable[[str], None] | None) -> None:
        self._listener = listener
        self._logged: set[str] = set()

    def __call__(self, native: str) -> None:
        if native not in self._logged:
            self._logged.add(native)
            log.warning("job state %s is not known; it is taken for unknown", native)
        if self._listener is not None:
            self._listener(native)
