"""The doctor against a rehearsal cluster: all green, then one fault at a time."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import asyncssh
import pytest

from gateway.doctor.findings import Outcome, Result
from gateway.doctor.scheduling import judge_version
from gateway.doctor.subject import Subject
from gateway.errors import GatewayError
from gateway.profiles.models import LoginHost
from gateway.text import LANGUAGES, text
from gateway.transport import failures
from gateway.transport.base import Actor

from .site import Site

JOB_STATIONS = ("accounts", "directory", "job", "observer", "running", "node", "tunnel")


def outcomes(results: dict[str, Result], outcome: Outcome) -> set[str]:
    return {key for key, result in results.items() if result.finding.outcome is outcome}


def said(result: Result) -> str:
    """Everything a person reads of it, in English."""
    finding = result.finding
    lines = [finding.words, *finding.remedies]
    assert all(words.render(language) for words in lines for language in LANGUAGES)
    return "\n".join([*(words.render() for words in lines), finding.detail])


def replace_program(site: Site, user: str, name: str, lines: str) -> None:
    """``user`` finds this shell script in the place of a program; "{real}" is the real one."""
    program = site.cluster.hosts.commands(user) / name
    real = program.with_name(f"real-{name}")
    if program.exists():
        # The look-alikes go by their own name.
        keep = program.with_name("real") / name
        keep.parent.mkdir(exist_ok=True)
        program.rename(keep)
        real = keep
    program.write_text("#!/bin/sh\n" + lines.replace("{real}", str(real)) + "\n")
    program.chmod(0o755)


async def test_all_green(site: Site) -> None:
    status, results = await site.visit("alice")
    assert outcomes(results, Outcome.OK) == set(results), [said(r) for r in results.values()]
    assert status == 0
    assert set(JOB_STATIONS) < set(results)
    assert next(iter(results)) == "settings"
    assert list(results)[-1] == "removal"
    assert "works both ways" in said(results["tunnel"])
    assert site.leftovers() == []


async def test_without_a_user_no_job_is_run(site: Site) -> None:
    status, results = await site.visit()
    assert status == 0
    assert outcomes(results, Outcome.SKIPPED) == set(JOB_STATIONS)
    assert all("--user NAME" in said(results[key]) for key in JOB_STATIONS)
    assert "removal" not in results
    assert not site.cluster.state.jobs


async def test_another_host_key(site: Site) -> None:
    known = site.cluster.known_hosts
    lines = known.read_text().splitlines()
    names, kind, real = lines[0].split()[:3]
    other = asyncssh.generate_private_key("ssh-ed25519")
    known.write_text(
        "\n".join([f"{names} {other.export_public_key().decode().strip()}", *lines[1:]]) + "\n"
    )
    status, results = await site.visit("alice")
    assert status == 1
    (host,) = outcomes(results, Outcome.FAIL)
    assert host.startswith("host:")
    words = said(results[host])
    shown = asyncssh.import_public_key(f"{kind} {real}")
    assert f"shows ssh-ed25519 {shown.get_fingerprint()}" in words
    assert f"expects ssh-ed25519 {other.get_fingerprint()}" in words
    assert f"[rehearsal-login]:{site.cluster.port} {kind} {real}" in words
    assert "job" in outcomes(results, Outcome.SKIPPED)
    assert "nothing to remove" in said(results["removal"])


async def test_a_host_that_known_hosts_does_not_name(site: Site) -> None:
    known = site.cluster.known_hosts
    known.write_text("\n".join(known.read_text().splitlines()[1:]) + "\n")
    _, results = await site.visit()
    (host,) = outcomes(results, Outcome.FAIL)
    assert "expects nothing for rehearsal-login" in said(results[host])


@pytest.mark.parametrize("role", ["observer", "tunnel"])
async def test_an_account_that_the_signer_does_not_sign_for(site: Site, role: str) -> None:
    site.allow(**{role: []})
    status, results = await site.visit("alice")
    assert status == 1
    assert outcomes(results, Outcome.FAIL) == {f"signer:{role}:{role}"}
    words = said(results[f"signer:{role}:{role}"])
    assert f"clusters: {{rehearsal: {{{role}: [{role}]}}}}" in words
    assert str(site.directory / "allow.yml") in words
    # The host is still looked at, and everything that does not need the account.
    assert all(results[k].passed for k in results if k.startswith("host:"))
    skipped = outcomes(results, Outcome.SKIPPED)
    assert {f"sign_in:{role}:{role}"} < skipped
    assert ("clock" in skipped) == (role == "observer")
    assert results["sign_in:user:alice"].passed
    assert site.leftovers() == []


async def test_a_user_who_may_never_be_signed_for(site: Site) -> None:
    _, results = await site.visit("root")
    assert "account of the system" in said(results["signer:user:root"])


async def test_a_signer_that_does_not_answer(site: Site) -> None:
    (site.directory / "run" / "signer.sock").unlink()
    status, results = await site.visit()
    assert status == 1
    assert f"gateway signer --config {site.settings}" in said(results["signer:observer:observer"])


async def test_a_refused_sign_in_names_the_causes(site: Site) -> None:
    # Signed for, but no account of the cluster.
    site.allow(users=["newcomer"])
    _, results = await site.visit("newcomer")
    assert outcomes(results, Outcome.FAIL) == {"sign_in:user:newcomer", "accounts"}
    words = said(results["sign_in:user:newcomer"])
    authority = asyncssh.read_private_key(site.directory / "state" / "user_ca")
    assert "1. sshd does not trust the gateway's authority: TrustedUserCAKeys" in words
    assert authority.get_fingerprint() in words
    for cause in ("2. The account newcomer", "3. The clocks differ", "4. sshd sees another source"):
        assert cause in words


async def test_a_second_factor_is_explained(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # How transport recognises it is tested there, against a real exchange.
    async def refuse(self: Subject, host: LoginHost, actor: Actor) -> GatewayError | None:
        return failures.build_error(failures.SECOND_FACTOR, text("login node {h}", h=host.host))

    monkeypatch.setattr(Subject, "try_sign_in", refuse)
    _, results = await site.visit()
    assert "partial success" in said(results["sign_in:observer:observer"])
    assert "AuthenticationMethods is publickey" in said(results["sign_in:tunnel:tunnel"])


async def test_a_partition_that_is_not_there(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["partitions"]["vanished"] = dict(document["partitions"]["interactive"])
        save()
        status, results = await site.visit()
    assert status == 1
    assert outcomes(results, Outcome.FAIL) == {"partitions"}
    assert "no partition vanished" in said(results["partitions"])
    assert "the cluster has: " in said(results["partitions"])
    assert results["limits"].finding.outcome is Outcome.SKIPPED


async def test_limits_that_promise_too_much_are_listed(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["partitions"]["interactive"]["max_walltime"] = "30d"
        document["partitions"]["interactive"]["max_gpus"] = 9
        save()
        status, results = await site.visit()
    assert status == 0
    assert outcomes(results, Outcome.WARN) == {"limits"}
    words = said(results["limits"])
    assert "partitions.interactive.max_walltime is 30-00:00:00" in words
    assert "partitions.interactive.max_gpus is 9, the cluster gives 0" in words
    assert "partitions.long" not in words


async def test_a_launch_directory_that_cannot_be_made(site: Site) -> None:
    (site.home("alice") / ".local").write_text("in the way")
    status, results = await site.visit("alice")
    assert status == 1
    assert outcomes(results, Outcome.FAIL) == {"directory"}
    assert ".local/state/landfall" in said(results["directory"])
    assert not site.cluster.state.jobs


async def test_an_observer_that_sees_only_its_own_jobs(site: Site) -> None:
    replace_program(site, "observer", "squeue", "exit 0")
    status, results = await site.visit("alice")
    assert status == 1
    assert outcomes(results, Outcome.FAIL) == {"observer"}
    assert "PrivateData=jobs" in said(results["observer"])
    # The rest does not depend on it.
    assert results["tunnel"].passed
    assert site.leftovers() == []


@pytest.mark.parametrize(
    ("seconds", "outcome", "words"),
    [(45, Outcome.WARN, "ahead of"), (-90, Outcome.FAIL, "behind"), (20, Outcome.OK, "within")],
)
async def test_clocks_apart(site: Site, seconds: int, outcome: Outcome, words: str) -> None:
    replace_program(site, "observer", "date", f"echo {int(time.time()) + seconds}")
    _, results = await site.visit()
    assert results["clock"].finding.outcome is outcome
    assert words in said(results["clock"])


async def test_commands_that_are_missing(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["scheduler"]["bin_directory"] = "/nonexistent"
        save()
        _, results = await site.visit()
    assert outcomes(results, Outcome.FAIL) == {"scheduler"}
    assert "/nonexistent/sacctmgr" in said(results["scheduler"])
    assert "bin_directory" in said(results["scheduler"])


async def test_a_port_where_no_sshd_of_a_node_listens(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["tunnel"]["compute_port"] = 9
        save()
        _, results = await site.visit("alice")
    # The rehearsal's login node forwards to the nodes' own port only.
    assert outcomes(results, Outcome.FAIL) == {"forwarding"}
    assert "administratively prohibited" in said(results["forwarding"])
    assert "AllowTcpForwarding" in said(results["forwarding"])
    assert site.leftovers() == []


async def test_an_environment_that_does_not_start(site: Site) -> None:
    status, results = await site.visit("alice", environment="broken")
    assert status == 1
    (failed,) = outcomes(results, Outcome.FAIL)
    assert failed in ("running", "node", "tunnel")
    assert "anaconda/2019.10" in said(results[failed])
    assert "environments.broken" in said(results[failed])
    assert site.leftovers() == []


async def test_an_environment_without_its_command(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["environments"]["jupyter"]["command"] = ["/opt/nothing/jupyterhub-singleuser"]
        save()
        _, results = await site.visit("alice")
    assert outcomes(results, Outcome.FAIL) == {"tunnel"}
    assert "lacks /opt/nothing/jupyterhub-singleuser" in said(results["tunnel"])


async def test_an_agent_python_that_is_not_there(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["environments"]["jupyter"]["agent_python"] = "/opt/nothing/python3"
        save()
        _, results = await site.visit("alice")
    (failed,) = outcomes(results, Outcome.FAIL)
    assert "Python 3.8 or later" in said(results[failed])


async def test_a_job_that_waits_too_long(site: Site) -> None:
    with site.changed_profile() as (document, save):
        # Only "gpu" is offered, and somebody holds all of it.
        for name in ("interactive", "long"):
            del document["partitions"][name]
        document["default_partition"] = "gpu"
        save()
        blockers = await block(site, "gpu")
        status, results = await site.visit("alice", wait_seconds=1.0)
    assert status == 0
    assert results["running"].finding.outcome is Outcome.SKIPPED
    assert "--wait" in said(results["running"])
    assert results["removal"].passed
    assert set(site.leftovers()) <= set(blockers)


async def block(site: Site, partition: str) -> list[str]:
    """Fill a partition with jobs of bob; their ids."""
    sbatch = site.cluster.hosts.commands("bob") / "sbatch"
    ids = []
    for _ in range(8):
        process = await asyncio.create_subprocess_exec(
            str(sbatch), "--parsable", f"--partition={partition}", "--cpus-per-task=8",
            "--account=astro", "--time=5", stdin=-1, stdout=-1, stderr=-1,
            env=os.environ | site.cluster.hosts.session_environment("bob"), cwd=site.home("bob"),
        )  # fmt: skip
        out, err = await process.communicate(b"#!/bin/sh\nsleep 60\n")
        assert process.returncode == 0, err
        ids.append(out.decode().strip())
    return ids


async def test_one_of_two_login_hosts_is_away(site: Site) -> None:
    with site.changed_profile() as (document, save):
        document["login"]["hosts"].append({"host": site.cluster.login_address, "port": 9})
        save()
        status, results = await site.visit("alice")
    assert status == 1
    assert outcomes(results, Outcome.FAIL) == {f"host:{site.cluster.login_address}:9"}
    assert "Check the port in login.hosts" in said(results[f"host:{site.cluster.login_address}:9"])
    assert outcomes(results, Outcome.SKIPPED) == set()
    assert site.leftovers() == []


async def test_without_a_tunnel_account_users_forward(site: Site) -> None:
    with site.changed_profile() as (document, save):
        del document["roles"]["tunnel"]
        save()
        status, alone = await site.visit()
        assert status == 0
        assert "--user NAME" in said(alone["forwarding"])
        status, results = await site.visit("alice")
    assert status == 0
    assert "alice reaches the sshd" in said(results["forwarding"])
    assert results["tunnel"].finding.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        ("slurm 22.05.8", Outcome.OK),
        ("slurm-wlm 26.05.3", Outcome.OK),
        ("slurm 21.08.8-2", Outcome.FAIL),
        ("slurm 26.11.0", Outcome.WARN),
        ("slurm of tomorrow", Outcome.WARN),
    ],
)
def test_versions(version: str, outcome: Outcome) -> None:
    finding = judge_version(version)
    assert finding.outcome is outcome
    assert version in finding.words.render()


async def test_known_hosts_is_missing(site: Site) -> None:
    site.cluster.known_hosts.unlink()
    status, results = await site.visit()
    assert status == 78
    assert list(results) == ["settings"]
    assert f"there is no file {site.cluster.known_hosts}" in said(results["settings"])


async def test_a_cluster_that_has_no_profile(site: Site, tmp_path: Path) -> None:
    site.profile.rename(site.profile.with_name("other.yml"))
    status, results = await site.visit()
    assert status == 78
    assert results["settings"].finding.outcome is Outcome.FAIL
