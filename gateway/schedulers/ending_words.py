"""Words about ends that all schedulers share."""

from __future__ import annotations

import signal as signals
from datetime import timedelta

from gateway.values.resources import format_walltime


def show_walltime(walltime: timedelta) -> str:
    """Return ``2 h``, ``90 min``, or the clock form of what is neither."""
    hours, rest = divmod(int(walltime.total_seconds()), 3600)
    if hours and not rest:
        return f"{hours} h"
    if not hours and rest % 60 == 0:
        return f"{rest // 60} min"
    return format_walltime(walltime)


def name_signal(number: int) -> str:
    """Return ``9 (SIGKILL)``; the bare number of a signal that this host does not know."""
    try:
        return f"{number} ({signals.Signals(number).name})"
    except ValueError:
        return str(number)
