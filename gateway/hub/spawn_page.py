"""The form's page: GET only ever shows it, POST has the request checked and starts the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import url_path_join
from tornado.httputil import url_concat
from tornado.web import HTTPError

from gateway.connector.models import EnsureRequest
from gateway.errors import ConfigurationError, GatewayError, RequestRejected
from gateway.hub.connection import build_identity
from gateway.hub.form import FormView, build_form, build_options, build_typed
from gateway.hub.pages import GatewayPage
from gateway.hub.refusals import LaunchRefused
from gateway.text import text


class SpawnPage(GatewayPage, SpawnHandler):
    """``/hub/spawn[/USER[/SERVER]]``."""

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _get(self, user_name: str, server_name: str, display_name: str) -> None:
        user = await self._find(user_name, server_name, display_name)
        spawner = user.get_or_create_spawner(server_name, display_name, replace_failed=True)
        if spawner.active:
            self.redirect(await self.find_place(user, server_name))
        else:
            # A link can fill the form in; only a person's own click on Start starts anything.
            query = {
                name.removeprefix("opt-"): values[-1].decode("utf-8", "replace")
                for name, values in self.request.query_arguments.items()
                if values
            }
            stored = build_typed(spawner.user_options or {})
            if query.get("cluster", stored.get("cluster")) != stored.get("cluster"):
                stored = {}
            await self._show(user, spawner, stored | build_typed(query))

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _post(self, user_name: str, server_name: str, display_name: str) -> None:
        user = await self._find(user_name, server_name, display_name)
        spawner = user.get_or_create_spawner(server_name, display_name, replace_failed=True)
        if spawner.active:
            self.redirect(self._launch_url_with_next(user, server_name), status=303)
            return
        options = build_options(
            {
                name: [value.decode("utf-8", "replace") for value in values]
                for name, values in self.request.body_arguments.items()
            }
        )
        try:
            await self._check(user, spawner, options)
            if spawner.active:
                # Another tab, or the second half of a double click, was quicker.
                self.redirect(self._launch_url_with_next(user, server_name), status=303)
                return
            await self._wrap_spawn_single_user(
                user,
                server_name,
                display_name,
                spawner,
                self._launch_url_with_next(user, server_name),
                options,
            )
        except LaunchRefused as refused:
            await self._show_error(user, spawner, options, refused.error, refused.status_code)
        except GatewayError as error:
            rejected = isinstance(error, RequestRejected)
            await self._show_error(user, spawner, options, error, 400 if rejected else 503)
        except SpawnException:
            # It began and ended at once; the launch page has the log.
            self.redirect(self._launch_url_with_next(user, server_name), status=303)

    async def _check(self, user: Any, spawner: Any, options: dict[str, Any]) -> None:
        # Asked before JupyterHub begins a spawn, so that a refusal comes back on the form itself.
        cluster = options.get("cluster")
        if not isinstance(cluster, str):
            words = text("Choose a cluster.")
            raise RequestRejected(words, fields={"cluster": words})
        request = EnsureRequest(
            identity=build_identity(spawner.identity_source, user.name),
            server_name=spawner.name,
            options=options,
        )
        await spawner.client.check(cluster, request)

    async def _find(self, user_name: str, server_name: str, display_name: str) -> Any:
        user = self.find_user(user_name)
        if user is None:
            raise HTTPError(404, "No such user")
        if server_name:
            await self._check_named_server_request(user, server_name, display_name)
        return user

    async def _show_error(
        self,
        user: Any,
        spawner: Any,
        options: Mapping[str, Any],
        error: GatewayError,
        status_code: int,
    ) -> None:
        self.set_status(status_code)
        if isinstance(error, ConfigurationError):
            self.log.error("%s: %s", spawner._log_name, error)
        fields = {}
        if isinstance(error, RequestRejected):
            fields = {name: self.render_words(words) for name, words in error.fields.items()}
        await self._show(
            user, spawner, build_typed(options), self.render_words(error.user_message), fields
        )

    async def _show(
        self,
        user: Any,
        spawner: Any,
        typed: Mapping[str, str],
        message: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        form, resumable = FormView(), False
        try:
            choices = await spawner.client.choices(
                build_identity(spawner.identity_source, user.name)
            )
            form = build_form(choices, typed, fields or {}, self.language)
            live = await spawner.client.launches(user=user.name, server=spawner.name, live=True)
            resumable = bool(live)
        except GatewayError as error:
            self.set_status(503)
            message = message or self.render_words(error.user_message)
        next_url = self.get_argument("next", "")
        action = url_concat(
            self.spawn_url(user, spawner.name),
            {"_xsrf": self.xsrf_token.decode("ascii")} | ({"next": next_url} if next_url else {}),
        )
        tab_url = self.spawn_url(user, spawner.name)
        html = await self.render_template(
            "spawn.html",
            for_user=user,
            server_name=spawner.name,
            display_name=spawner.display_name,
            form=form,
            message=message,
            action=action,
            tab_url=tab_url,
            launch_url=self.launch_url(user, spawner.name),
            home_url=url_path_join(self.hub.base_url, "home"),
            resumable=resumable,
        )
        self.finish(html)

    def _launch_url_with_next(self, user: Any, server_name: str) -> str:
        url = self.launch_url(user, server_name)
        next_url = self.get_argument("next", "")
        return url_concat(url, {"next": next_url}) if next_url else url
