"""One gateway on one bed for the whole suite; every test stops what it started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.testbed.bed import Bed
from tests.testbed.fixtures import bed as bed

from .cluster import Cluster
from .gateway import URL, Gateway
from .site import PASSWORD, USERS
from .visitor import Visitor

SUITE_KEY = pytest.StashKey[Gateway]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if "e2e" in item.path.parts]
    for item in here:
        item.add_marker(pytest.mark.testbed)
        # One loop for all: the gateway's watchers live through the whole suite.
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
    # What waits for minutes is begun first and looked at last.
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session")
def hub_network(bed: Bed) -> Iterator[None]:
    """This thread's sockets are the hub's from here on."""
    with bed.network("hub"):
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(
    bed: Bed, hub_network: None, request: pytest.FixtureRequest
) -> AsyncIterator[Gateway]:
    async with Gateway(bed) as running:
        request.config.stash[SUITE_KEY] = running
        yield running
    left = bed.processes("hub")
    assert not left, f"left on the hub: {left}"


@pytest.fixture(scope="session")
def cluster(bed: Bed) -> Cluster:
    return Cluster(bed)


@pytest_asyncio.fixture(loop_scope="session")
async def visit(gateway: Gateway, cluster: Cluster) -> AsyncIterator[Callable[..., object]]:
    """``await visit("alice")``: signed in; at the test's end their servers are stopped."""
    gateway.mark_logs()
    async with AsyncExitStack() as stack:
        visitors: dict[str, Visitor] = {}

        async def sign_in(name: str) -> Visitor:
            if name not in visitors:
                assert name in USERS
                visitor = await stack.enter_async_context(Visitor(URL, name))
                await visitor.sign_in(PASSWORD)
                visitors[name] = visitor
            return visitors[name]

        yield sign_in
        for visitor in visitors.values():
            for server in await visitor.servers():
                if not server.startswith("kept"):
                    await visitor.stop(server)
        async with asyncio.timeout(40):
            while any(not job.name.endswith("kept") for job in cluster.jobs()):
                await asyncio.sleep(0.3)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    report = yield
    gateway = item.config.stash.get(SUITE_KEY, None)
    if report.failed and gateway is not None:
        report.sections.append(("gateway", gateway.read_logs()))
    return report
