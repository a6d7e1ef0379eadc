"""``gateway.yml``: where things live, and how the hub is reached.

Relative paths are relative to the directory of the file.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.fields import Duration
from gateway.yaml_files import load_model


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HubSettings(Section):
    """JupyterHub and its proxy."""

    bind_url: str = Field(default="http://127.0.0.1:8000", description="what browsers open")
    api_port: int = Field(default=8081, ge=1, le=65535, description="hub's own port on 127.0.0.1")
    proxy_api_port: int = Field(
        default=8001, ge=1, le=65535, description="proxy's API on 127.0.0.1"
    )
    proxy_command: tuple[str, ...] = Field(
        default=("configurable-http-proxy",), description="argv that starts the proxy"
    )
    admin_users: frozenset[str] = Field(default=frozenset(), description="hub names of admins")
    idle_timeout: Duration | None = Field(
        default=timedelta(hours=3), description="servers idle this long are stopped; null: never"
    )
    named_servers: int = Field(default=5, ge=0, le=50, description="named servers a user may have")


class DummySignIn(Section):
    """Any name with one password: for the demo, on a loopback address only."""

    kind: Literal["dummy"]
    users: tuple[str, ...] = Field(min_length=1, description="names that may sign in")
    password: str = Field(min_length=1, description="shared by all of them")


class PamSignIn(Section):
    """Accounts of this host, through PAM."""

    kind: Literal["pam"]


SignIn = Annotated[DummySignIn | PamSignIn, Field(discriminator="kind")]


class ConnectorSettings(Section):
    """The connector process."""

    database: str | None = Field(
        default=None, description="SQLAlchemy URL; by default SQLite in the state directory"
    )
    edge_network: Annotated[str, Field(pattern=r"^127\.\d{1,3}\.0\.0/16$")] = Field(
        default="127.88.0.0/16", description="loopback network of the edges"
    )
    metrics_port: int | None = Field(default=None, description="also serve /metrics on 127.0.0.1")


class SignerSettings(Section):
    """The SSH user-certificate authority."""

    ca_key: Path | None = Field(default=None, description="private key of the authority, 0600")
    allow_list: Path | None = Field(default=None, description="who may be signed for, per cluster")
    audit_log: Path | None = Field(default=None, description="one line per certificate")
    clients: tuple[int, ...] = Field(
        default=(), description="uids that may ask; by default the signer's own"
    )
    socket: Path | None = Field(
        default=None,
        description="its unix socket; by default signer.sock in the runtime directory, which "
        "serves only a signer that shares the connector's account",
    )
    lifetime: Duration = Field(
        default=timedelta(minutes=2), le=timedelta(minutes=5), description="of a certificate"
    )
    source_addresses: tuple[str, ...] = Field(
        default=(), description="addresses from which certificates are valid"
    )


class IdentitySettings(Section):
    """From people to logins on clusters."""

    table: Path | None = Field(
        default=None, description="YAML table: source, subject, cluster, user"
    )


class Settings(Section):
    """The whole of ``gateway.yml``."""

    state_directory: Path = Field(description="database, keys; 0700")
    runtime_directory: Path = Field(description="unix sockets; 0700, a short path")
    profiles_directory: Path = Field(description="cluster profiles (*.yml)")
    template_directories: tuple[Path, ...] = Field(
        default=(), description="job templates of the site, looked up before the shipped ones"
    )
    sign_in: SignIn
    hub: HubSettings = Field(default=HubSettings())
    connector: ConnectorSettings = Field(default=ConnectorSettings())
    signer: SignerSettings = Field(default=SignerSettings())
    identity: IdentitySettings = Field(default=IdentitySettings())
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="the least severe lines that are logged"
    )

    @property
    def connector_socket(self) -> Path:
        """Where the connector listens."""
        return self.runtime_directory / "connector.sock"

    @property
    def signer_socket(self) -> Path:
        """Where the signer listens."""
        return self.signer.socket or self.runtime_directory / "signer.sock"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.connector.database or (
            f"sqlite+aiosqlite:///{self.state_directory / 'connector.sqlite'}"
        )


def load_settings(path: Path) -> Settings:
    """Read ``gateway.yml``.

    :raises ConfigurationError: every fault with file, line, column, key and remedy.
    """
    return load_model(path.absolute(), Settings)
