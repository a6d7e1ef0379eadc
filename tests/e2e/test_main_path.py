"""Sign in, choose, wait, work, stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .cluster import Cluster, until
from .visitor import Visitor

Visit = Callable[[str], Awaitable[Visitor]]


async def test_from_sign_in_to_stop(visit: Visit, cluster: Cluster) -> None:
    alice = await visit("alice")
    seconds = await alice.start()
    job = cluster.job_of("alice")
    kernel = await alice.open_kernel()
    assert await kernel.run("6*7") == "42"
    assert "alice" in await kernel.run("!id -un")
    assert (await kernel.run("!hostname")).strip() == job.node
    await kernel.close()
    print(f"click to ready: {seconds:.1f} s")
    await alice.stop()
    assert cluster.ended_as(job.id) in ("CANCELLED", "COMPLETED")
    await until("an empty queue", lambda: not cluster.jobs("alice"))
