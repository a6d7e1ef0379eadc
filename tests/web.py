"""A person's browser without a screen: signs in, fills forms, talks to kernels. For tests."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL


@dataclass
class Form:
    """A form of a page: where it goes and what is filled in already."""

    action: str = ""
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)


class FormParser(HTMLParser):
    """Reads the forms of a page as a browser would submit them untouched."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._select: str | None = None
        self._chosen = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        got = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(got.get("action", ""), got.get("method", "get").lower()))
        if not self.forms:
            return
        fields, name = self.forms[-1].fields, got.get("name")
        if tag == "input" and name and got.get("type") not in ("submit", "button"):
            if got.get("type") in ("checkbox", "radio") and "checked" not in got:
                return
            fields[name] = got.get("value", "")
        elif tag == "select" and name:
            self._select, self._chosen = name, False
        elif (
            tag == "option"
            and self._select
            and "disabled" not in got
            and ("selected" in got or self._select not in fields)
        ):
            fields[self._select] = got.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None


def parse_forms(page: str) -> list[Form]:
    """All forms of a page, in order."""
    parser = FormParser()
    parser.feed(page)
    return parser.forms


class Person:
    """One signed-in person at one hub."""

    def __init__(self, base: str, name: str) -> None:
        self.base = URL(base)
        self.name = name
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=aiohttp.ClientTimeout(total=60)
        )
        self._token = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        """Open a page."""
        async with self._session.get(self.base.join(URL(path)), **options) as answer:
            return answer.status, await answer.text()

    async def submit(self, path: str, form: Form, **changes: str) -> tuple[int, str, URL]:
        """Submit a form found at ``path`` with some fields changed; follow where it leads."""
        target = (
            self.base.join(URL(path)).join(URL(form.action))
            if form.action
            else self.base.join(URL(path))
        )
        async with self._session.post(target, data=form.fields | changes) as answer:
            return answer.status, await answer.text(), answer.url

    async def sign_in(self, password: str) -> None:
        """Fill the sign-in form."""
        _, page = await self.get("/hub/login")
        form = next(form for form in parse_forms(page) if "password" in form.fields)
        status, _, url = await self.submit(
            "/hub/login", form, username=self.name, password=password
        )
        assert status < 400, f"sign-in answered {status} at {url}"
        assert "login" not in url.path, "the sign-in was refused"

    def xsrf(self) -> str:
        """The XSRF token of the hub's pages."""
        cookies = self._session.cookie_jar.filter_cookies(self.base / "hub/")
        return cookies["_xsrf"].value

    async def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Call the hub's API as this person."""
        headers = {"X-XSRFToken": self.xsrf(), "Referer": str(self.base / "hub/home")}
        url = self.base.join(URL(f"/hub/api{path}"))
        async with self._session.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def token(self) -> str:
        """An API token of this person, made once."""
        if not self._token:
            status, answer = await self.api("POST", f"/users/{self.name}/tokens", {"note": "test"})
            assert status in (200, 201), answer
            self._token = answer["token"]
        return self._token

    async def server_api(
        self, method: str, path: str, body: Any = None, *, server: str = ""
    ) -> tuple[int, Any]:
        """Call the running server's API through the proxy."""
        headers = {"Authorization": f"token {await self.token()}"}
        url = self.base.join(URL(f"{self.prefix(server)}{path}"))
        async with self._session.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text) if text else None
            except ValueError:
                return answer.status, text

    def prefix(self, server: str = "") -> str:
        """``/user/NAME/`` or ``/user/NAME/SERVER/``."""
        return f"/user/{self.name}/{server}/" if server else f"/user/{self.name}/"

    async def open_kernel(self, *, server: str = "") -> Kernel:
        """Start a kernel and open its websocket."""
        status, kernel = await self.server_api(
            "POST", "api/kernels", {"name": "python3"}, server=server
        )
        assert status == 201, (status, kernel)
        url = self.base.join(URL(f"{self.prefix(server)}api/kernels/{kernel['id']}/channels"))
        socket = await self._session.ws_connect(
            url, headers={"Authorization": f"token {await self.token()}"}, max_msg_size=0
        )
        return Kernel(kernel["id"], socket)


class Kernel:
    """A kernel over its websocket (Jupyter's messaging protocol 5.3, JSON frames)."""

    def __init__(self, kernel_id: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.id = kernel_id
        self._socket = socket

    async def run(self, code: str, *, timeout: float = 60) -> str:
        """Run ``code``; return what it printed and its value."""
        message = uuid.uuid4().hex
        content = {
            "code": code, "silent": False, "store_history": False, "user_expressions": {},
            "allow_stdin": False, "stop_on_error": True,
        }  # fmt: skip
        header = {
            "msg_id": message, "msg_type": "execute_request", "username": "", "session": message,
            "version": "5.3", "date": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        await self._socket.send_json(
            {
                "header": header,
                "parent_header": {},
                "metadata": {},
                "content": content,
                "channel": "shell",
                "buffers": [],
            }
        )
        printed = ""
        while True:
            frame = await self._socket.receive(timeout=timeout)
            assert frame.type == aiohttp.WSMsgType.TEXT, f"the websocket ended: {frame}"
            got = json.loads(frame.data)
            if got["parent_header"].get("msg_id") != message:
                continue
            kind, body = got["msg_type"], got["content"]
            if kind == "stream":
                printed += body["text"]
            elif kind in ("execute_result", "display_data"):
                printed += body["data"].get("text/plain", "")
            elif kind == "error":
                raise AssertionError("\n".join(body["traceback"]))
            elif kind == "status" and body["execution_state"] == "idle":
                return printed

    async def close(self) -> None:
        """Close the websocket; the kernel goes on."""
        await self._socket.close()
