"""The parts of the hub that decide and do not act."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets.config import Config

from gateway.connector.models import EdgeView, EndView, LaunchView, TransitionView
from gateway.errors import ConfigurationError
from gateway.hub.config import configure, is_loopback
from gateway.hub.form import FIELDS, build_form, build_options, build_typed
from gateway.hub.inherited import check_inherited
from gateway.hub.kernels import parse_busy
from gateway.hub.language import parse_accept_language
from gateway.hub.launch_status import ADVICE, STATES, build_status, format_duration
from gateway.hub.proxy import build_proxy_command, build_proxy_environment, parse_bind_url
from gateway.hub.secret_files import ensure_secret
from gateway.hub.server_api import may_cull
from gateway.launch.states import EndReason, LaunchState
from gateway.settings import DummySignIn, HubSettings, PamSignIn, Settings
from gateway.text import _catalogue
from tests.unit.hub.stand_in import build_choices, words

NOW = datetime(2030, 5, 2, 12, 0, tzinfo=UTC)


def build_settings(directory: Path, **hub: object) -> Settings:
    return Settings(
        state_directory=directory,
        runtime_directory=directory,
        profiles_directory=directory,
        sign_in=DummySignIn(kind="dummy", users=("alice",), password="x"),
        hub=HubSettings.model_validate(hub),
    )


def build_view(state: LaunchState, **changes: object) -> LaunchView:
    view = LaunchView(
        id="0123456789abcdef",
        cluster="rorqual",
        cluster_title=words("Rorqual"),
        user="alice",
        server_name="",
        cluster_user="alice",
        state=state,
        words=words("Something happens.", "Quelque chose se passe."),
        edge=EdgeView(ip="127.88.0.1", port=4000),
        options={"partition": "short", "cores": 2, "gpus": 0},
        created_at=NOW - timedelta(hours=3),
        changed_at=NOW - timedelta(minutes=5),
    )
    return view.model_copy(update=changes)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-CA,en;q=0.8", "fr"),
        ("en-US,en;q=0.9,fr;q=0.8", "en"),
        ("de,fr;q=0.5,en;q=0.4", "fr"),
        ("en;q=0,fr;q=0.1", "fr"),
        ("fr;q=nonsense", "en"),
        ("de", "en"),
    ],
)
def test_language(header: str, language: str) -> None:
    assert parse_accept_language(header) == language


@given(st.text())
def test_language_is_total(header: str) -> None:
    assert parse_accept_language(header) in ("en", "fr")


def test_replaced_settings_are_named_with_what_replaces_them() -> None:
    config = Config()
    config.BatchSpawnerBase.req_partition = "short"
    config.GatewaySpawner.batch_submit_cmd = "sbatch"
    config.GatewaySpawner.req_unheard_of = "x"
    config.Spawner.args = ["--debug"]
    with pytest.raises(ConfigurationError) as caught:
        check_inherited(config)
    said = str(caught.value)
    assert "BatchSpawnerBase.req_partition -> partitions (cluster profile)" in said
    assert "GatewaySpawner.batch_submit_cmd -> scheduler (cluster profile)" in said
    assert "GatewaySpawner.req_unheard_of" in said
    assert "args" not in said
    check_inherited(Config())


def test_form_of_a_new_user() -> None:
    form = build_form([build_choices(), build_choices("fir", "Fir")], {}, {}, "fr")
    assert form.cluster == "rorqual"
    assert [tab.current for tab in form.tabs] == [True, False]
    assert form.values["walltime"] == "01:00:00"
    assert form.values["account"] == "physics"
    assert form.values["memory"] == "4G"
    assert form.partitions[0].label == "Travaux courts (12 cœurs libres)"
    assert json.loads(form.partitions[1].limits)["gpus"][0] == {"kind": "a100", "max": 4, "free": 1}
    assert [option.value for option in form.gpu_kinds] == ["", "a100", "t4"]


def test_form_keeps_what_was_typed_but_not_for_another_cluster() -> None:
    choices = [build_choices(), build_choices("fir", "Fir")]
    typed = {"cluster": "rorqual", "partition": "gpu", "cores": "many"}
    form = build_form(choices, typed, {"cores": "no"}, "en")
    assert form.values["cores"] == "many"
    assert form.partition is not None
    assert form.partition.name == "gpu"
    assert form.errors == {"cores": "no"}
    gone = build_form(choices, {"cluster": "closed", "cores": "9"}, {}, "en")
    assert gone.cluster == "rorqual"
    assert gone.values["cores"] == "1"


def test_form_without_anything() -> None:
    assert build_form([], {}, {}, "en").partitions == ()
    empty = build_choices().model_copy(update={"partitions": []})
    assert build_form([empty], {}, {}, "en").problem
    closed = build_choices().model_copy(update={"problem": words("No login.")})
    assert build_form([closed], {}, {}, "en").problem == "No login."


def test_options_of_a_posted_form() -> None:
    posted = {
        "cluster": ["rorqual"],
        "cores": [" 4 "],
        "gpus": ["²"],
        "account": [""],
        "memory": ["4G"],
        "_xsrf": ["secret"],
    }
    assert build_options(posted) == {
        "cluster": "rorqual",
        "cores": 4,
        "gpus": "²",
        "memory": "4G",
    }


@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), st.lists(st.text())))
def test_options_and_back_are_total(posted: dict[str, list[str]]) -> None:
    typed = build_typed(build_options(posted))
    assert set(typed) <= set(FIELDS)
    build_form([build_choices()], typed, {}, "fr")


def test_typed_ignores_strange_stored_values() -> None:
    assert build_typed({"cores": True, "memory": ["4G"], "walltime": None, "gpus": 2}) == {
        "gpus": "2"
    }


@pytest.mark.parametrize("state", list(LaunchState))
@pytest.mark.parametrize("language", ["en", "fr"])
def test_status_of_every_state(state: LaunchState, language: str) -> None:
    end = EndView(reason=EndReason.WALLTIME, words=words("Over.", "Fini."), log_tail="bye")
    view = build_view(state, end=end if state is LaunchState.ENDED else None)
    status = build_status(
        view,
        "fr" if language == "fr" else "en",
        url="/user/alice/",
        hub_active=True,
        hub_ready=True,
        problem="",
        now=NOW,
    )
    assert status.headline
    assert bool(status.url) is (state is LaunchState.READY)
    assert status.can_cancel is (state not in (LaunchState.ENDING, LaunchState.ENDED))
    assert status.log_tail == ("bye" if state is LaunchState.ENDED else "")
    assert ("3 h 0 min" if state is not LaunchState.ENDED else "2 h 55 min") in str(status.facts)


def test_every_reason_has_advice() -> None:
    assert set(ADVICE) == set(EndReason)
    assert set(STATES) == set(LaunchState)


def test_everything_we_say_is_said_in_french() -> None:
    catalogue = _catalogue("fr")
    said = [*STATES.values(), *ADVICE.values()]
    assert [each.template for each in said if each.template not in catalogue] == []


def test_status_without_a_launch() -> None:
    def build(**changes: object) -> str:
        fixed = {"url": "", "hub_active": False, "hub_ready": False, "problem": "", "now": NOW}
        return build_status(None, "en", **(fixed | changes)).headline  # type: ignore[arg-type]

    assert build(hub_active=True) == "The request is on its way"
    assert build(problem="Refused.") == "This server could not be started"
    assert build() == "This server has not been started yet"
    assert build(problem="Away.", away=True) == "The state is not known at the moment"


def test_a_launch_the_hub_forgot_can_be_connected_again() -> None:
    view = build_view(LaunchState.READY)
    status = build_status(
        view, "en", url="/u", hub_active=False, hub_ready=False, problem="", now=NOW
    )
    assert status.can_reconnect
    assert status.url == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=61), "1 h 1 min"),
        (timedelta(days=2, hours=5), "2 d 5 h"),
    ],
)
def test_durations(value: timedelta, said: str) -> None:
    assert format_duration(value, "en") == said


def build_history(*lines: tuple[int, LaunchState]) -> list[TransitionView]:
    return [
        TransitionView(at=NOW - timedelta(minutes=ago), state=state, words=words(""))
        for ago, state in lines
    ]


R, C, Q = LaunchState.READY, LaunchState.CONNECTING, LaunchState.QUEUED


@pytest.mark.parametrize(
    ("state", "history", "allowed"),
    [
        (R, [(500, Q), (490, C), (480, R)], True),  # first start is no outage
        (R, [(500, R), (200, C), (170, R)], False),  # long outage, back within the idle time
        (R, [(900, R), (400, C), (200, R)], True),  # long outage, long ago
        (R, [(500, R), (60, C), (59, R)], True),  # short: it has reported since
        (R, [(500, R), (6, C), (5, R)], False),  # short, and it may not have reported yet
        (C, [(500, R), (200, C)], False),  # out of reach now
        (Q, [(500, Q)], False),  # waits in the queue: the hub may think it runs
        (LaunchState.ENDED, [], True),
    ],
)
def test_culler_after_outages(
    state: LaunchState, history: list[tuple[int, LaunchState]], allowed: bool
) -> None:
    view = build_view(state, history=build_history(*history))
    assert may_cull(view, timedelta(hours=3), NOW) is allowed


@pytest.mark.parametrize(
    ("body", "busy"),
    [
        (b'[{"execution_state": "idle"}, {"execution_state": "busy"}]', True),
        (b'[{"execution_state": "idle"}, 7]', False),
        (b"[]", False),
        (b'{"execution_state": "busy"}', False),
        (b"<html>", False),
        (b"\xff", False),
    ],
)
def test_busy_kernels(body: bytes, busy: bool) -> None:
    assert parse_busy(body) is busy


def test_demo_sign_in_is_for_loopback_only(tmp_path: Path) -> None:
    for url in ("http://0.0.0.0:8000", "http://10.0.0.5:8000", "http://hub.example.org:8000"):
        with pytest.raises(ConfigurationError) as caught:
            configure(Config(), build_settings(tmp_path, bind_url=url))
        assert caught.value.reason == "dummy_sign_in"
    configure(Config(), build_settings(tmp_path, bind_url="http://127.0.0.1:8000"))
    assert (tmp_path / "jupyterhub.sqlite").stat().st_mode & 0o777 == 0o600
    pam = build_settings(tmp_path, bind_url="http://0.0.0.0:8000").model_copy(
        update={"sign_in": PamSignIn(kind="pam")}
    )
    c = Config()
    configure(c, pam)
    assert c.JupyterHub.authenticator_class == "pam"


def test_configuration(tmp_path: Path) -> None:
    c = Config()
    configure(c, build_settings(tmp_path, admin_users=["carol"], idle_timeout="2h"))
    assert c.JupyterHub.cleanup_servers is False
    assert c.JupyterHub.hub_ip == "127.0.0.1"
    assert c.JupyterHub.concurrent_spawn_limit == 0
    assert c.ConfigurableHTTPProxy.should_start is False
    assert c.GatewaySpawner.idle_timeout == 7200
    (culler,) = c.JupyterHub.services
    assert "--timeout=7200" in culler["command"]
    (role,) = c.JupyterHub.load_roles
    assert role["scopes"] == [
        "list:users",
        "read:users:activity",
        "read:servers",
        "delete:servers",
    ]
    none = Config()
    configure(none, build_settings(tmp_path, idle_timeout=None))
    assert none.JupyterHub.services == []


def test_proxy_command_holds_no_secret(tmp_path: Path) -> None:
    settings = build_settings(tmp_path)
    secret = build_proxy_environment(settings)["CONFIGPROXY_AUTH_TOKEN"]
    command = build_proxy_command(settings)
    assert secret not in " ".join(command)
    assert command[:3] == ["configurable-http-proxy", "--ip", "127.0.0.1"]
    assert build_proxy_environment(settings)["CONFIGPROXY_AUTH_TOKEN"] == secret


@pytest.mark.parametrize("url", ["https://h:1", "http://h", "h:1", "http://h:x", ""])
def test_bind_url_must_be_complete(url: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_bind_url(url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9:8000", True),
        ("http://[::1]:8000", True),
        ("http://localhost:8000", True),
        ("http://:8000", False),
        ("http://localhost.example.org:1", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


def test_secret_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    value = ensure_secret(path)
    assert len(value) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_secret(path) == value
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="0640"):
        ensure_secret(path)
    path.chmod(0o600)
    path.write_text("")
    with pytest.raises(ConfigurationError, match="too short"):
        ensure_secret(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ConfigurationError):
        ensure_secret(link)
