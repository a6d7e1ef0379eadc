"""The cluster profile of a running rehearsal cluster, made of the shipped example."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

from gateway.errors import ConfigurationError
from gateway.rehearsal.cluster import HOST_KEY_ALIAS, RehearsalCluster
from gateway.text import text

CLUSTER: Final = "rehearsal"


def shipped_profile() -> Path:
    """The example ``rehearsal.yml``: beside the package in a checkout, else wheel data.

    :raises ConfigurationError: the installation is incomplete.
    """
    candidates = (
        Path(__file__).resolve().parents[2] / "cluster_profiles",
        Path(sys.prefix) / "share" / "landfall" / "cluster_profiles",
    )
    for directory in candidates:
        if (directory / f"{CLUSTER}.yml").is_file():
            return directory / f"{CLUSTER}.yml"
    raise ConfigurationError(
        text("The example cluster profiles are missing; install the package again."),
        detail=", ".join(map(str, candidates)),
    )


def build_rehearsal_profile(cluster: RehearsalCluster, directory: Path) -> Path:
    """Write ``rehearsal.yml`` for ``cluster``, which must be open, into ``directory``.

    The agent and the single-user server run with the Python of this process. Returns the path;
    the file is good until the cluster is closed.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 100
    document = yaml.load(shipped_profile().read_text(encoding="utf-8"))
    document["login"]["hosts"] = [{"host": cluster.login_address, "port": cluster.port}]
    document["login"]["host_key_alias"] = HOST_KEY_ALIAS
    document["login"]["known_hosts"] = str(cluster.known_hosts)
    document["tunnel"]["compute_port"] = cluster.port
    document["tunnel"]["socket_directory"] = cluster.socket_directory
    programs = Path(sys.executable).parent
    for environment in document["environments"].values():
        environment["agent_python"] = sys.executable
        environment["command"][0] = str(programs / environment["command"][0])
    path = directory / f"{CLUSTER}.yml"
    partial = path.with_suffix(".tmp")
    with partial.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
    partial.replace(path)
    return path
