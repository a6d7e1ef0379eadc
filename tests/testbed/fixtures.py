"""pytest fixtures of the test bed: `from tests.testbed.fixtures import bed` in a conftest.py.

`LANDFALL_BED=<run id>` uses a bed that is up already (`make testbed-up`) and leaves it up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .bed import Bed
from .preconditions import why_not
from .teardown import remove_stale


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """One bed for the whole test session; tests leave it as they found it (`bed.reset()`).

    Skips with the reason where no bed can be; under CI it fails instead.
    """
    running = os.environ.get("LANDFALL_BED")
    if running:
        yield Bed.find(running)
        return
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    remove_stale()
    with Bed.up(say=print) as fresh:
        yield fresh
