"""A hub with its proxy, and a stand-in connector."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.hub.running_hub import RunningHub, open_hub


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RunningHub]:
    async with open_hub(tmp_path) as running:
        yield running
