"""What alice's job can do with the hub, and what cannot be posted to it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from tests.e2e.gateway import URL
from tests.e2e.site import PASSWORD
from tests.e2e.visitor import Visitor

from .conftest import Scene

Ask = Callable[..., Awaitable[tuple[int, str]]]

# Runs in alice's kernel: one request to the hub through the job's own hub.sock.
ASK = """
def ask(method, path, body=None, token=None):
    import http.client, json, os, socket
    from urllib.parse import unquote, urlsplit
    url = urlsplit(os.environ["JUPYTERHUB_API_URL"])
    line = http.client.HTTPConnection("hub")
    line.sock = socket.socket(socket.AF_UNIX)
    line.sock.settimeout(10)
    line.sock.connect(unquote(url.netloc))
    token = token or os.environ["JUPYTERHUB_API_TOKEN"]
    headers = {"Authorization": "token " + token, "Content-Type": "application/json"}
    line.request(method, path, None if body is None else json.dumps(body), headers)
    answer = line.getresponse()
    print(answer.status, answer.read().decode()[:2000])
"""

FORBIDDEN = [
    ("GET", "/hub/api/users", None),
    ("GET", "/hub/api/users/alice", None),
    ("GET", "/hub/api/users/bob", None),
    ("GET", "/hub/api/groups", None),
    ("GET", "/hub/api/proxy", None),
    ("GET", "/hub/api/services", None),
    ("GET", "/hub/api/info", None),
    ("GET", "/hub/login", None),
    ("GET", "/hub/metrics", None),
    ("GET", "/", None),
    ("GET", "/hub/api/user/../users", None),
    ("GET", "/hub/api//users", None),
    ("GET", "/hub/api/%75sers", None),
    ("GET", "http://127.0.0.1:8081/hub/api/users", None),
    ("POST", "/hub/api/users/alice/tokens", {"note": "mine"}),
    ("POST", "/hub/api/users/alice/server", {}),
    ("DELETE", "/hub/api/users/alice/server", None),
    ("POST", "/hub/api/users/bob/activity", {"last_activity": "2026-01-01T00:00:00Z"}),
    ("POST", "/hub/api/shutdown", {}),
    ("POST", "/hub/api/batchspawner", {"port": 80}),
]


@pytest.fixture
def ask(scene: Scene) -> Ask:
    async def run(method: str, path: str, body: object = None) -> tuple[int, str]:
        call = f"ask({method!r}, {path!r}, {body!r})"
        status, _, words = (await scene.kernel.run(f"{ASK}\n{call}")).partition(" ")
        return int(status), words

    return run


async def test_the_job_may_do_what_a_server_needs(ask: Ask) -> None:
    status, words = await ask("GET", "/hub/api/user")
    assert status == 200
    assert json.loads(words)["name"] == "alice"
    body = {"servers": {"": {"last_activity": "2026-01-01T00:00:00Z"}}}
    status, words = await ask("POST", "/hub/api/users/alice/activity", body)
    assert status == 200, words


@pytest.mark.parametrize(("method", "path", "body"), FORBIDDEN)
async def test_the_job_may_do_nothing_else(ask: Ask, method: str, path: str, body: object) -> None:
    status, words = await ask(method, path, body)
    assert status in (400, 403, 404, 405), (status, words)


async def test_the_token_of_a_server_is_no_token_of_its_owner(scene: Scene) -> None:
    """Even at the hub itself, where the filter does not stand before it."""
    headers = {"Authorization": f"token {scene.secrets['server token']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for method, path in (
            ("GET", "/hub/api/users"),
            ("POST", "/hub/api/users/alice/tokens"),
            ("DELETE", "/hub/api/users/alice/server"),
            ("GET", "/hub/api/users/bob"),
        ):
            async with session.request(method, URL + path, json={}) as answer:
                assert answer.status in (403, 404), (method, path, answer.status)


async def test_the_hub_has_no_call_back_route(scene: Scene) -> None:
    headers = {"Authorization": f"token {scene.secrets['server token']}"}
    async with aiohttp.ClientSession() as session:
        for extra in ({}, headers):
            async with session.post(
                f"{URL}/hub/api/batchspawner", json={"port": 80, "cmd": ["x"]}, headers=extra
            ) as answer:
                assert answer.status == 404


GOOD = {
    "cluster": "testbed",
    "partition": "interactive",
    "environment": "jupyter",
    "walltime": "10m",
    "cores": 1,
    "memory": "1G",
}


async def test_the_unforged_request_is_taken(scene: Scene) -> None:
    """Else the refusals below would prove nothing."""
    before = submitted(scene)
    status, answer = await scene.alice.api("POST", "/users/alice/servers/good", GOOD)
    assert status in (201, 202), (status, answer)
    await scene.alice.wait_ready("good")
    assert len(submitted(scene)) == len(before) + 1
    await scene.alice.stop("good")


@pytest.mark.parametrize(
    "change",
    [
        {"partition": "interactive\n#SBATCH --account=rrg-physics"},
        {"partition": "interactive --wrap=id"},
        {"partition": "--wrap=id"},
        {"environment": "jupyter\nid"},
        {"account": "def-alice\n"},
        {"memory": "1G\n--exclusive"},
        {"walltime": "60\n"},
        {"cores": "2; id"},
        {"reservation": "a,b --uid=0"},
        {"start_directory": "/tmp\n/x"},
        {"job_name": "mine"},
        {"cluster": "../testbed"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_forged_request_is_refused_and_nothing_submitted(
    scene: Scene, change: dict[str, str]
) -> None:
    before = submitted(scene)
    status, answer = await scene.alice.api("POST", "/users/alice/servers/forged", GOOD | change)
    assert status == 400, (status, answer)
    assert submitted(scene) == before
    assert "forged" not in {
        name for name, model in (await scene.alice.servers()).items() if model["ready"]
    }


async def test_a_forged_request_for_the_default_server(scene: Scene) -> None:
    """The same by the address of the default server, as somebody who has none."""
    before = submitted(scene, "carol")
    async with Visitor(URL, "carol") as carol:
        await carol.sign_in(PASSWORD)
        change = {"partition": "interactive\n#SBATCH --account=rrg-physics", "account": "def-carol"}
        status, answer = await carol.api("POST", "/users/carol/server", GOOD | change)
        assert status == 400, (status, answer)
        assert "partition" in json.dumps(answer)
    assert submitted(scene, "carol") == before


def submitted(scene: Scene, user: str = "alice") -> list[str]:
    """All jobs that this user ever submitted here: the accounting knows them late, the queue at
    once, but forgets them."""
    accounting = ["sacct", "-X", "-n", "-P", "--starttime=now-1hour", "--format=JobID"]
    queue = ["squeue", "--noheader", "--states=all", "--format=%A"]
    found: set[str] = set()
    for argv in (accounting, queue):
        found |= set(scene.bed.run("login", [*argv, f"--user={user}"], check=True).stdout.split())
    return sorted(found)
