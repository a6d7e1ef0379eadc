from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.rehearsal.site import Site, open_site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A cluster whose walltimes count in seconds."""
    async with open_site(tmp_path / "cluster", walltime_step=1) as opened:
        yield opened
