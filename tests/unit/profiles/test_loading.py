from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.profiles.loading import load_profile, load_profiles
from gateway.settings import load_settings

PROFILE = """\
name: fir
title: {en: Fir, fr: Fir}
scheduler: {kind: slurm}
login:
  hosts: [{host: fir.example.org}]
  known_hosts: known_hosts
roles:
  observer: {name: watcher}
partitions:
  interactive:
    max_walltime: 8h
    max_memory: 20G
environments:
  jupyter:
    title: {en: JupyterLab, fr: JupyterLab}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "known_hosts").write_text("fir ssh-ed25519 AAAA\n")
    (tmp_path / "fir.yml").write_text(PROFILE)
    return tmp_path


def fault(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_profile(path)
    return caught.value.detail


def test_a_good_profile(directory: Path) -> None:
    profile = load_profiles(directory)["fir"]
    assert profile.login.known_hosts == directory / "known_hosts"
    assert profile.partitions["interactive"].max_memory.mib == 20480
    assert profile.roles.user.credential.kind == "certificate"
    assert profile.launch_directory == ".local/state/landfall"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "max_memory",
            "max_memry",
            '12:5: partitions.interactive.max_memry: unknown key; did you mean "max_memory"?',
        ),
        ("max_walltime: 8h", "max_walltime: 8", "write a time with its unit"),
        ("max_walltime: 8h", "max_walltime: 8:00", "is not a walltime"),
        ("max_memory: 20G", "max_memory: 20", "write an amount of memory with its unit"),
        (
            "max_memory: 20G",
            "max_memory: 20G\n    default_walltime: 9h",
            "longer than max_walltime",
        ),
        ("name: fir", "name: 0123", "name: must be text"),
        ("name: fir", "name: oak", "name the file oak.yml"),
        ("name: fir", "name: fir\nname: fir", "duplicate key"),
        ("name: fir", "name: !!python/object/apply:os.system [id]", "not allowed"),
        ("host: fir.example.org", "host: a@fir", "host"),
        ("host: fir.example.org", "host: fir, port: 0", "port"),
        ("kind: slurm", "kind: lsf", "slurm"),
        ("observer: {name: watcher}", "{}", "observer: required"),
        ("partitions:", "default_partition: big\npartitions:", "not among partitions"),
        ("name: watcher", "name: 'root; id'", "observer.name"),
        ("name: fir", "\tname: fir", "fir.yml:1:1"),
        ("known_hosts: known_hosts", "known_hosts: nowhere", "there is no file"),
        ("partitions:", "job_template: ../../etc/x.j2\npartitions:", "job_template"),
        ("kind: slurm", "kind: slurm, command_timeout: soon", "is not a walltime"),
    ],
)
def test_a_fault_is_told_with_place_and_remedy(
    directory: Path, old: str, new: str, says: str
) -> None:
    path = directory / "fir.yml"
    path.write_text(PROFILE.replace(old, new, 1))
    assert says in fault(path)


def test_all_faults_at_once(directory: Path) -> None:
    path = directory / "fir.yml"
    path.write_text(
        PROFILE.replace("8h", "8")
        .replace("20G", "20")
        .replace("title: {en: Fir", "titel: {en: Fir")
    )
    assert len(fault(path).splitlines()) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"- a\n", b"a: 1\n---\nb: 2\n", b"\xff\xfe", b"a: [1\n", b"a: &x [1]\nb: *y\n"],
)
def test_no_mapping_at_all(directory: Path, content: bytes) -> None:
    path = directory / "fir.yml"
    path.write_bytes(content)
    assert fault(path).startswith(str(path))


def test_alias_bomb(directory: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    (directory / "fir.yml").write_text("\n".join(lines))
    assert "too many" in fault(directory / "fir.yml")


def test_a_private_key_is_refused(directory: Path) -> None:
    path = directory / "fir.yml"
    path.write_text(PROFILE + "# -----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "mode 0600" in fault(path)


def test_missing_and_empty_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigurationError):
            load_profiles(path)


def test_settings_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yml"
    path.write_text(
        "state_directory: state\nruntime_directory: /run/landfall\nprofiles_directory: profiles\n"
        "template_directories: [mine]\nsign_in: {kind: pam}\nsigner: {ca_key: ca, lifetime: 3m}\n"
    )
    settings = load_settings(path)
    assert settings.state_directory == tmp_path / "state"
    assert settings.template_directories == (tmp_path / "mine",)
    assert settings.signer.ca_key == tmp_path / "ca"
    assert settings.connector_socket == Path("/run/landfall/connector.sock")
    assert settings.database_url == f"sqlite+aiosqlite:///{tmp_path}/state/connector.sqlite"


def test_settings_faults(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yml"
    path.write_text("state_directory: state\nsign_in: {kind: magic}\nsigner: {lifetime: 1h}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    for word in ("runtime_directory", "sign_in", "signer.lifetime"):
        assert word in caught.value.detail
