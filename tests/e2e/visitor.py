"""A person who starts servers with the gateway's own pages, follows them and stops them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from tests.web import Form, Kernel, Person, parse_forms

START_BOUND = 90.0


@dataclass(frozen=True)
class Event:
    """One event of the launch page: the section's HTML as the browser would show it."""

    html: str
    headline: str
    url: str
    final: bool

    @property
    def state(self) -> str:
        found = re.search(r'data-state="([a-z]+)"', self.html)
        assert found, self.html
        return found[1]

    @property
    def words(self) -> str:
        """What a reader sees."""
        return read(self.html)


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.parts.append(data.strip())


def read(html: str) -> str:
    """The visible words of a page."""
    parser = _Words()
    parser.feed(html)
    return "\n".join(parser.parts)


class Visitor(Person):
    """One signed-in person; ``server`` is a server's name, empty for the default one."""

    def __init__(self, base: str, name: str) -> None:
        super().__init__(base, name)
        self._open: list[Kernel | Terminal] = []

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for each in self._open:
            await each.close()
        await super().__aexit__(kind, error, at)

    async def open_kernel(self, *, server: str = "") -> Kernel:
        """Start a kernel and open its websocket, closed at the latest when the person leaves."""
        kernel = await super().open_kernel(server=server)
        self._open.append(kernel)
        return kernel

    def _path(self, kind: str, server: str) -> str:
        return f"/hub/{kind}/{self.name}" + (f"/{server}" if server else "")

    async def open_form(self, server: str = "") -> tuple[str, Form]:
        """The form's page and the form, as soon as the cluster's offer is known."""
        path = self._path("spawn", server)
        async with asyncio.timeout(30):
            while True:
                status, page = await self.get(path)
                assert status == 200, (status, read(page))
                for form in parse_forms(page):
                    if "partition" in form.fields:
                        return page, form
                await asyncio.sleep(0.5)

    async def submit_form(self, server: str = "", **changes: str) -> tuple[int, str, URL]:
        """Fill the form; status, page and address where it leads."""
        _, form = await self.open_form(server)
        return await self.submit(self._path("spawn", server), form, **changes)

    async def ask(self, server: str = "", **changes: str) -> None:
        """Submit the form; it leads to the launch page."""
        # The form offers what was chosen last; a test says all that it depends on.
        changes = {"partition": "interactive", "environment": "jupyter"} | changes
        status, page, url = await self.submit_form(server, **changes)
        assert status == 200, (status, str(url), read(page))
        expected = (self._path("launch", server), self.prefix(server).rstrip("/"))
        assert url.path.startswith(expected), (str(url), read(page))

    async def start(self, server: str = "", *, bound: float = START_BOUND, **changes: str) -> float:
        """Submit the form and follow the launch page until the server can be used; seconds."""
        began = time.monotonic()
        await self.ask(server, **changes)
        await self.wait_ready(server, bound=bound)
        return time.monotonic() - began

    async def wait_ready(self, server: str = "", *, bound: float = START_BOUND) -> Event:
        """Follow the launch page until the server can be used."""
        event = await self.wait_event(lambda event: bool(event.url), server, bound=bound)
        status, _ = await self.server_api("GET", "api/status", server=server)
        assert status == 200, status
        return event

    async def wait_event(
        self, wanted: Any, server: str = "", *, bound: float = START_BOUND
    ) -> Event:
        """The first event of the launch page that is ``wanted``; fails when the page is done."""
        seen: list[Event] = []
        try:
            async with asyncio.timeout(bound):
                async for event in self.events(server):
                    seen.append(event)
                    if wanted(event):
                        return event
        except TimeoutError:
            pass
        told = "\n\n".join(f"[{event.state}]\n{event.words}" for event in seen)
        raise AssertionError(f"not in {bound:.0f} s; the launch page said:\n{told}")

    async def wait_state(self, state: str, server: str = "", *, bound: float = 60) -> Event:
        """The first event in a launch state."""
        return await self.wait_event(lambda event: event.state == state, server, bound=bound)

    async def events(self, server: str = "") -> AsyncIterator[Event]:
        """The events that the launch page's script listens to; the page names their address."""
        page = await self.launch_page(server)
        found = re.search(r'data-events="([^"]+)"', page)
        if not found:  # the page is as it will stay
            url = re.search(r'class="button primary" href="([^"]+/user/[^"]+|/user/[^"]+)"', page)
            yield Event(page, "", unescape(url[1]) if url else "", True)
            return
        address = self.base.join(URL(unescape(found[1]), encoded=True))
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self._session.get(address, timeout=timeout) as answer:
            assert answer.status == 200, answer.status
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"data:"):
                    yield Event(**json.loads(line[5:]))

    async def launch_page(self, server: str = "") -> str:
        """The launch page's HTML."""
        status, page = await self.get(self._path("launch", server))
        assert status == 200, (status, read(page))
        return page

    async def press(self, action: str, server: str = "") -> None:
        """Press a button of the launch page: cancel or reconnect."""
        page = await self.launch_page(server)
        form = next(
            (form for form in parse_forms(page) if form.fields.get("action") == action), None
        )
        assert form, read(page)
        status, answer, _ = await self.submit(self._path("launch", server), form)
        assert status == 200, (status, read(answer))

    async def servers(self) -> dict[str, dict[str, Any]]:
        """The hub's servers of this person that are not stopped."""
        status, user = await self.api("GET", f"/users/{self.name}")
        assert status == 200, user
        return dict(user["servers"])

    async def stop(self, server: str = "", *, bound: float = 40) -> None:
        """Stop a server through the hub's API, as its home page does, and wait until it is gone."""
        path = f"/users/{self.name}/servers/{server}" if server else f"/users/{self.name}/server"
        async with asyncio.timeout(bound):
            status, answer = await self.api("DELETE", path)
            assert status in (202, 204), (status, answer)
            while server in await self.servers():
                await asyncio.sleep(0.2)

    async def stop_all(self) -> None:
        """Stop every server, also one that still starts."""
        for server, model in (await self.servers()).items():
            if model["pending"] == "spawn":
                await self.press("cancel", server)
                async with asyncio.timeout(40):
                    while server in await self.servers():
                        await asyncio.sleep(0.2)
            else:
                await self.stop(server)

    async def connect_kernel(self, kernel_id: str, *, server: str = "") -> Kernel:
        """Open a websocket to a kernel that runs."""
        url = self.base.join(URL(f"{self.prefix(server)}api/kernels/{kernel_id}/channels"))
        headers = {"Authorization": f"token {await self.token()}"}
        socket = await self._session.ws_connect(url, headers=headers, max_msg_size=0)
        self._open.append(kernel := Kernel(kernel_id, socket))
        return kernel

    async def open_terminal(self, *, server: str = "") -> Terminal:
        """Start a terminal and open its websocket."""
        status, terminal = await self.server_api("POST", "api/terminals", {}, server=server)
        assert status == 200, (status, terminal)
        path = f"{self.prefix(server)}terminals/websocket/{terminal['name']}"
        headers = {"Authorization": f"token {await self.token()}"}
        socket = await self._session.ws_connect(self.base.join(URL(path)), headers=headers)
        self._open.append(terminal := Terminal(socket))
        return terminal

    async def send_file(self, name: str, chunks: Iterable[bytes]) -> None:
        """Upload as JupyterLab does: in chunks, the last one numbered -1."""
        parts = list(chunks)
        for number, part in enumerate(parts, 1):
            body = {
                "type": "file",
                "format": "base64",
                "content": base64.b64encode(part).decode(),
                "chunk": -1 if number == len(parts) else number,
            }
            status, answer = await self.server_api("PUT", f"api/contents/{name}", body)
            assert status in (200, 201), (status, answer)

    async def receive_file(self, name: str) -> tuple[int, str]:
        """Download a file: its size and sha256."""
        url = self.base.join(URL(f"{self.prefix()}files/{name}"))
        headers = {"Authorization": f"token {await self.token()}"}
        size, digest = 0, hashlib.sha256()
        async with self._session.get(url, headers=headers) as answer:
            assert answer.status == 200, answer.status
            async for part in answer.content.iter_chunked(1 << 20):
                size += len(part)
                digest.update(part)
        return size, digest.hexdigest()


class Terminal:
    """A terminal over its websocket (terminado's protocol)."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def type(self, line: str, until: str, *, bound: float = 30) -> str:
        """Type a line and read until ``until`` is on the screen."""
        await self._socket.send_json(["stdin", line + "\r"])
        screen = ""
        async with asyncio.timeout(bound):
            while until not in screen:
                frame = await self._socket.receive()
                assert frame.type == aiohttp.WSMsgType.TEXT, f"the terminal ended: {frame}"
                kind, *rest = json.loads(frame.data)
                if kind == "stdout":
                    screen += rest[0]
        return screen

    async def close(self) -> None:
        """Close the websocket; the shell goes on."""
        await self._socket.close()
