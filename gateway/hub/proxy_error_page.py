"""What the proxy shows when a server does not answer at all: most often, it has just ended."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from jupyterhub.handlers.pages import ProxyErrorHandler
from jupyterhub.utils import url_escape_path, url_path_join

from gateway.hub.pages import GatewayPage
from gateway.text import LANGUAGES, Text, text

WORDS: Final[dict[str, Text]] = {
    "title": text("This server does not answer"),
    "explanation": text(
        "Most often it has just ended. Files that were saved are where they were. "
        "What happened is on the server's page."
    ),
    "launch": text("What happened"),
    "home": text("My servers"),
}


class ProxyErrorPage(GatewayPage, ProxyErrorHandler):
    """``/hub/error/503?url=…``: asked for by the proxy, without cookies or a language.

    So it is in both languages, and says nothing of anybody: the launch page that it leads to asks
    who is there.
    """

    async def get(self, status_code_s: str) -> None:
        """Show the way to the launch page; other errors than 503 look as JupyterHub has them."""
        launch_page = self._find_launch_page(self.get_argument("url", ""))
        if status_code_s != "503" or launch_page is None:
            await super().get(status_code_s)
            return
        self.set_header("Content-Type", "text/html")
        texts = {
            language: {name: words.render(language) for name, words in WORDS.items()}
            for language in LANGUAGES
        }
        self.write(
            await self.render_template("server_down.html", launch_page=launch_page, texts=texts)
        )

    def _find_launch_page(self, url: str) -> str | None:
        prefix = url_path_join(self.base_url, "user/")
        path = urlsplit(url).path
        if not path.startswith(prefix):
            return None
        name, _, rest = path[len(prefix) :].partition("/")
        user = self.find_user(unquote(name))
        if user is None:
            return None
        server_name = unquote(rest.partition("/")[0])
        if server_name not in user.orm_user.orm_spawners:
            server_name = ""  # the first part of a path within the default server
        return str(
            url_path_join(
                self.hub.base_url, "launch", user.escaped_name, url_escape_path(server_name)
            )
        )
