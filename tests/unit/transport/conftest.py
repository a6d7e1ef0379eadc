"""One site of real sshds for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sshd import SshdSite, open_sshd_site


@pytest.fixture(scope="module")
def site() -> Iterator[SshdSite]:
    with open_sshd_site() as opened:
        yield opened
