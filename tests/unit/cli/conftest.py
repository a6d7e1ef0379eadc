from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.cli.site import Site, open_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened
