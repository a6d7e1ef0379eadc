"""Cluster profiles from a directory of YAML files."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import ConfigurationError
from gateway.profiles.models import ClusterProfile
from gateway.text import text
from gateway.yaml_files import faulty, load_model


def load_profile(path: Path) -> ClusterProfile:
    """Read one cluster profile.

    :raises ConfigurationError: see :func:`load_model`; also when a file it names is missing.
    """
    profile = load_model(path, ClusterProfile)
    if profile.name != path.stem:
        raise faulty(
            path, [f'{path}:1:1: name: is "{profile.name}"; name the file {profile.name}.yml']
        )
    if not profile.login.known_hosts.is_file():
        raise faulty(
            path,
            [
                f"{path}: login.known_hosts: there is no file {profile.login.known_hosts}; "
                "write the host keys of login and compute nodes there (ssh-keyscan, then compare)"
            ],
        )
    return profile


def load_profiles(directory: Path) -> dict[str, ClusterProfile]:
    """Read all ``*.yml`` of a directory, by cluster name.

    :raises ConfigurationError: with the faults of all files.
    """
    if not directory.is_dir():
        raise ConfigurationError(
            text("There is no directory {path} with cluster profiles.", path=str(directory)),
            reason="profiles",
        )
    profiles: dict[str, ClusterProfile] = {}
    faults: list[str] = []
    for path in sorted(directory.glob("*.yml")):
        try:
            profile = load_profile(path)
        except ConfigurationError as error:
            faults.append(error.detail)
        else:
            profiles[profile.name] = profile
    if faults:
        raise ConfigurationError(
            text("Cluster profiles have faults; none of them was loaded."),
            detail="\n".join(faults),
            reason="profiles",
        )
    if not profiles:
        raise ConfigurationError(
            text("There is no cluster profile (*.yml) in {path}.", path=str(directory)),
            reason="profiles",
        )
    return profiles
