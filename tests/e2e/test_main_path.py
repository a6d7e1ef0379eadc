"""Sign in, choose, wait, work, stop."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable

import pytest

from .cluster import Cluster, until
from .visitor import Visitor, read

Visit = Callable[[str], Awaitable[Visitor]]


async def test_from_sign_in_to_stop(
    visit: Visit, cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    alice = await visit("alice")
    page, _ = await alice.open_form()
    assert "Test bed" in read(page)
    seconds = await alice.start()
    record_property("click to ready", f"{seconds:.1f} s")
    job = cluster.job_of("alice")
    kernel = await alice.open_kernel()
    assert await kernel.run("6*7") == "42"
    assert (await kernel.run("!id -un")).strip() == "alice"
    assert (await kernel.run("!hostname")).strip() == job.node
    await kernel.close()
    await alice.stop()
    assert cluster.ended_as(job.id) in ("CANCELLED", "COMPLETED")
    await until("an empty queue", lambda: not cluster.jobs("alice"))


async def test_two_people_and_a_named_server(visit: Visit, cluster: Cluster) -> None:
    alice, bob = await visit("alice"), await visit("bob")
    await asyncio.gather(alice.start(), alice.start("second"), bob.start())
    assert len(cluster.jobs("alice")) == 2
    for person, server in ((alice, ""), (alice, "second"), (bob, "")):
        kernel = await person.open_kernel(server=server)
        assert (await kernel.run("!id -un")).strip() == person.name
        await kernel.close()
    # Nobody enters another's server, signed in or not.
    status, _ = await bob.get("/user/alice/api/kernels", allow_redirects=False)
    assert status in (302, 403)
    await alice.stop("second")
    await until("one job fewer", lambda: len(cluster.jobs("alice")) == 1)
    kernel = await alice.open_kernel()
    assert await kernel.run("6*7") == "42"
    await kernel.close()


async def test_modules_are_loaded(visit: Visit) -> None:
    alice = await visit("alice")
    await alice.start(environment="jupyter-module")
    kernel = await alice.open_kernel()
    assert (await kernel.run("!echo $LANDFALL_TEST_GCC")).strip() == "12.3"
    await kernel.close()


async def test_srun_in_a_cell_and_in_a_terminal(visit: Visit, cluster: Cluster) -> None:
    alice = await visit("alice")
    await alice.start()
    node = cluster.job_of("alice").node
    kernel = await alice.open_kernel()
    assert (await kernel.run("!srun -n 1 hostname")).strip() == node
    await kernel.close()
    terminal = await alice.open_terminal()
    # The shell puts the answer together, so that the echo of the line is not taken for it.
    screen = await terminal.type('echo "on-$(srun -n 1 hostname)-$(id -un)"', f"on-{node}-alice")
    assert f"on-{node}-alice" in screen
    await terminal.close()


@pytest.mark.timeout(120)
async def test_a_large_file_up_and_down(
    visit: Visit, record_property: Callable[[str, object], None]
) -> None:
    alice = await visit("alice")
    await alice.start(memory="2G")
    source = random.Random(20)
    chunks = [source.randbytes(750_000) for _ in range(267)]
    whole = hashlib.sha256(b"".join(chunks)).hexdigest()
    began = asyncio.get_running_loop().time()
    await alice.send_file("large.bin", chunks)
    middle = asyncio.get_running_loop().time()
    assert await alice.receive_file("large.bin") == (200_250_000, whole)
    done = asyncio.get_running_loop().time()
    record_property(
        "200 MB", f"{200 / (middle - began):.0f} MB/s up, {200 / (done - middle):.0f} MB/s down"
    )
    status, _ = await alice.server_api("DELETE", "api/contents/large.bin")
    assert status == 204
