"""alice's notebook runs; bob, a second real uid, has a job on the same node and looks around."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.e2e.cluster import Cluster, Job, until
from tests.e2e.gateway import URL, Gateway
from tests.e2e.site import PASSWORD
from tests.e2e.visitor import Visitor
from tests.testbed.bed import Bed
from tests.testbed.fixtures import bed as bed
from tests.web import Kernel

ALICE = 6001
RUNNING = pytest.StashKey[Gateway]()
Reporting = Generator[None, pytest.TestReport, pytest.TestReport]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "access" in item.path.parts:
            item.add_marker(pytest.mark.testbed)
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@dataclass(frozen=True)
class Scene:
    """What is there to be found."""

    bed: Bed
    gateway: Gateway
    cluster: Cluster
    alice: Visitor
    kernel: Kernel
    job: Job
    secrets: dict[str, str]
    connection_file: dict[str, object]
    begun: float

    def find_secrets(self, words: str) -> list[str]:
        """Which of the launch's secrets are in ``words``."""
        return [name for name, value in self.secrets.items() if value in words]


@pytest.fixture(scope="session")
def hub_network(bed: Bed) -> Iterator[None]:
    with bed.network("hub"):
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(
    bed: Bed, hub_network: None, request: pytest.FixtureRequest
) -> AsyncIterator[Gateway]:
    async with Gateway(bed) as running:
        request.config.stash[RUNNING] = running
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scene(gateway: Gateway, bed: Bed) -> AsyncIterator[Scene]:
    cluster = Cluster(bed)
    begun = time.time()
    async with Visitor(URL, "alice") as alice:
        await alice.sign_in(PASSWORD)
        await alice.start()
        job = cluster.job_of("alice")
        # Short enough to end by itself should this process not come to its end.
        argv = ["sbatch", "--parsable", f"--nodelist={job.node}", "--time=10", "--mem=100M"]
        done = bed.run(
            "login", [*argv, "--output=/dev/null", "--wrap", "sleep 600"], user="bob", check=True
        )
        neighbour = done.stdout.strip()
        await until("bob's job", lambda: cluster.ended_as(neighbour) == "RUNNING")
        kernel = await alice.open_kernel()
        environment = json.loads(await _tell(kernel, "dict(__import__('os').environ)"))
        connection = json.loads(
            await _tell(
                kernel,
                "__import__('json').load(open(__import__('ipykernel').get_connection_file()))",
            )
        )
        state = gateway.settings.state_directory
        known = {
            "server token": environment["JUPYTERHUB_API_TOKEN"],
            "kernel key": str(connection["key"]),
            "proxy token": (state / "proxy_token").read_text().strip(),
            "cookie secret": (state / "jupyterhub_cookie_secret").read_text().strip(),
            "browser token": await alice.token(),
        }
        assert all(len(value) >= 32 for value in known.values()), known.keys()
        yield Scene(bed, gateway, cluster, alice, kernel, job, known, connection, begun)
        await kernel.close()
        cluster.cancel(neighbour)
        await alice.stop()
        await until("an empty queue", lambda: not cluster.jobs())


async def _tell(kernel: Kernel, expression: str) -> str:
    """A value of the kernel as JSON; a word that is never the same marks its beginning."""
    mark = secrets.token_hex(4)
    printed = await kernel.run(f"print('{mark}' + __import__('json').dumps({expression}))")
    return printed.partition(mark)[2]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Reporting:
    report = yield
    gateway = item.config.stash.get(RUNNING, None)
    if report.failed and gateway is not None:
        report.sections.append(("gateway", gateway.read_logs(limit=4000)))
    return report
