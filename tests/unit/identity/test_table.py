from pathlib import Path

import pytest

from gateway.errors import ConfigurationError, RequestRejected
from gateway.identity.gate import check_cluster_user
from gateway.identity.table import TableMapper
from gateway.values.identity import ClusterUser, Identity

TABLE = """\
people:
  - source: pam
    subject: ada
    clusters:
      fir: {user: adal, uid: 20417}
"""
ADA = Identity("pam", "ada", "ada-x1")


async def test_a_person_is_found_by_source_and_subject(tmp_path: Path) -> None:
    path = tmp_path / "people.yml"
    path.write_text(TABLE)
    mapper = TableMapper(path)
    assert await mapper.find_cluster_user(ADA, "fir") == ClusterUser("fir", "adal", 20417)
    assert await mapper.find_cluster_user(ADA, "oak") is None
    assert await mapper.find_cluster_user(Identity("globus", "ada", "ada-x1"), "fir") is None


async def test_a_change_is_seen_and_a_broken_file_maps_nobody(tmp_path: Path) -> None:
    path = tmp_path / "people.yml"
    path.write_text(TABLE)
    mapper = TableMapper(path)
    assert await mapper.find_cluster_user(ADA, "fir")
    path.write_text("people: []\n")
    assert await mapper.find_cluster_user(ADA, "fir") is None
    path.write_text(TABLE + TABLE.split("\n", 1)[1])
    with pytest.raises(ConfigurationError, match="listed twice"):
        await mapper.find_cluster_user(ADA, "fir")
    path.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        await mapper.find_cluster_user(ADA, "fir")


@pytest.mark.parametrize(
    "name",
    [
        "root",
        "slurm",
        "-oProxyCommand=x",
        "a;b",
        "\uff21lice",
        "alice\n",
        "a" * 64,
        "smith$",
        "",
        "..",
    ],
)
def test_the_gate_refuses(name: str) -> None:
    with pytest.raises(RequestRejected):
        check_cluster_user(ClusterUser("fir", name))


def test_the_gate_has_a_uid_floor() -> None:
    with pytest.raises(RequestRejected):
        check_cluster_user(ClusterUser("fir", "ada", 12))
    assert check_cluster_user(ClusterUser("fir", "ada", 1000)).name == "ada"
