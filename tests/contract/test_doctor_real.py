"""The doctor on real Slurm and sshd: all green, then faults that only they have."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.site import CLUSTER
from tests.testbed.bed import Bed
from tests.testbed.fixtures import bed as bed
from tests.testbed.layout import COMPUTE, LOGIN

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(120)]


@dataclass
class Site:
    """The gateway's files on the hub host, and a signer that runs there."""

    bed: Bed
    gateway: Gateway

    def visit(self, user: str | None = "alice") -> tuple[int, dict[str, Any]]:
        """Run the doctor as the connector's account; exit status and results by station."""
        words = [
            "doctor",
            CLUSTER,
            "--json",
            "--config",
            str(self.gateway.directory / "gateway.yml"),
        ]
        done = subprocess.run(
            [
                *self.gateway._prefix("connector"),
                *(sys.executable, "-m", "gateway", *words),
                *(() if user is None else ("--user", user)),
            ],
            env=self.gateway._environment("connector"),
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.stderr == ""
        results = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {result["station"]: result for result in results}

    def check_nothing_left(self) -> None:
        jobs = self.bed.run(LOGIN, ["squeue", "--noheader", "--states=PD,R,CF,S"]).stdout
        assert jobs.strip() == ""
        kept = self.bed.home.glob("alice/.local/state/landfall/launches/*")
        assert list(kept) == []


@pytest.fixture(scope="module")
def site(bed: Bed) -> Iterator[Site]:
    gateway = Gateway(bed)
    try:
        gateway._write_site()
        asyncio.run(gateway.start("signer"))
        yield Site(bed, gateway)
    finally:
        asyncio.run(gateway._close())


def of(results: dict[str, Any], outcome: str) -> set[str]:
    return {key for key, result in results.items() if result["outcome"] == outcome}


def said(result: dict[str, Any]) -> str:
    words = [result["words"], *result["remedies"]]
    return "\n".join([*(one["en"] for one in words), result["detail"]])


@contextmanager
def sshd(bed: Bed, hosts: Sequence[str], old: str, new: str) -> Iterator[None]:
    """Other words in the sshd_config of these hosts while inside."""
    before = {host: bed.layout.ssh(host) / "sshd_config" for host in hosts}
    texts = {host: path.read_text() for host, path in before.items()}

    def serve() -> None:
        for host in hosts:
            bed.stop(host, "sshd")
            bed.start(host, "sshd")

    try:
        for host, path in before.items():
            assert old in texts[host]
            path.write_text(texts[host].replace(old, new))
        serve()
        yield
    finally:
        for host, path in before.items():
            path.write_text(texts[host])
        serve()


def test_all_green(site: Site) -> None:
    status, results = site.visit()
    assert status == 0
    assert of(results, "fail") == of(results, "skipped") == set(), results
    assert "works both ways" in said(results["tunnel"])
    assert {"node", "observer", "removal"} <= of(results, "ok")
    site.check_nothing_left()


def test_start_up_files_that_print(site: Site) -> None:
    file = site.bed.home / "alice" / ".bashrc"
    before = file.read_text() if file.exists() else ""
    try:
        file.write_text(f"echo welcome to the cluster\n{before}")
        status, results = site.visit()
    finally:
        file.write_text(before)
    assert status == 0
    assert "welcome to the cluster" in said(results["shell:user:alice"])
    assert "shell:user:alice" in of(results, "warn")
    assert "tunnel" in of(results, "ok")


def test_jobs_of_others_are_private(site: Site) -> None:
    bed = site.bed
    try:
        bed.configure_slurm("PrivateData=jobs")
        bed.sacctmgr("modify user observer set adminlevel=None")
        status, results = site.visit()
    finally:
        bed.sacctmgr("modify user observer set adminlevel=Operator")
        bed.configure_slurm()
    assert status == 1
    assert of(results, "fail") == {"observer"}
    assert "PrivateData=jobs" in said(results["observer"])
    assert "tunnel" in of(results, "ok")
    site.check_nothing_left()


def test_forwarding_is_prohibited_on_the_login_node(site: Site) -> None:
    with sshd(site.bed, [LOGIN], "AllowTcpForwarding yes", "AllowTcpForwarding no"):
        status, results = site.visit()
    assert status == 1
    assert of(results, "fail") == {"forwarding"}
    assert "administratively prohibited" in said(results["forwarding"])
    assert "tunnel" in of(results, "skipped")
    site.check_nothing_left()


def test_the_authority_is_not_trusted(site: Site) -> None:
    with sshd(site.bed, [LOGIN], "TrustedUserCAKeys", "#TrustedUserCAKeys"):
        status, results = site.visit()
    assert status == 1
    assert of(results, "fail") == {
        "sign_in:observer:observer",
        "sign_in:tunnel:tunnel",
        "sign_in:user:alice",
    }
    assert "host:login:22" in of(results, "ok")
    assert "TrustedUserCAKeys is missing" in said(results["sign_in:user:alice"])


def test_a_second_factor_is_asked_for(site: Site) -> None:
    more = "AuthenticationMethods publickey,keyboard-interactive\nKbdInteractiveAuthentication yes"
    with sshd(site.bed, [LOGIN], "KbdInteractiveAuthentication no", more):
        status, results = site.visit(None)
    assert status == 1
    assert of(results, "fail") == {"sign_in:observer:observer", "sign_in:tunnel:tunnel"}
    assert "partial success" in said(results["sign_in:tunnel:tunnel"])


def test_sockets_are_not_forwarded_on_compute_nodes(site: Site) -> None:
    streams = "AllowStreamLocalForwarding"
    with sshd(site.bed, COMPUTE, f"{streams} yes", f"{streams} no"):
        status, results = site.visit()
    assert status == 1
    assert of(results, "fail") == {"tunnel"}
    assert f"Set {streams} yes" in said(results["tunnel"])
    site.check_nothing_left()
