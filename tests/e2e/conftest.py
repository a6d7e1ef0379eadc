"""One gateway on one bed for the whole suite; every test stops what it started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.testbed.bed import Bed
from tests.testbed.fixtures import bed as bed

from .cluster import OCCUPIER, Cluster
from .gateway import URL, Gateway
from .patience import Patience
from .site import PASSWORD, USERS
from .visitor import Visitor

SUITE_KEY = pytest.StashKey[Gateway]()
Reporting = Generator[None, pytest.TestReport, pytest.TestReport]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if "e2e" in item.path.parts]
    for item in here:
        item.add_marker(pytest.mark.testbed)
        # One loop for all: the gateway's watchers live through the whole suite.
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
    # What waits for minutes is begun with the suite and looked at when the rest is done; what
    # breaks connections comes after that.
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    mark = item.get_closest_marker("late")
    return int(mark.args[0]) if mark else 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "late(rank): runs after tests of lower rank")


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
            await visitor.stop_all()
        for job in cluster.jobs():
            if job.name == OCCUPIER:
                cluster.cancel(job.id)
        # carol's servers wait through the whole suite.
        async with asyncio.timeout(40):
            while any(job.user != "carol" for job in cluster.jobs()):
                await asyncio.sleep(0.3)


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def patience(gateway: Gateway) -> AsyncIterator[Patience]:
    """Begins what takes minutes: see :class:`Patience`."""
    async with Visitor(URL, "carol") as carol:
        await carol.sign_in(PASSWORD)
        begun = await Patience.begin(carol)
        yield begun
        await begun.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Reporting:
    report = yield
    gateway = item.config.stash.get(SUITE_KEY, None)
    if report.failed and gateway is not None:
        report.sections.append(("gateway", gateway.read_logs()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
