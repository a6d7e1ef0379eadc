"""Settings of the base spawner that a cluster profile replaces.

The base class has some twenty traits that describe one cluster to shell templates. Clusters are
described by profiles here; a trait that would be silently without effect is a start-up error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.errors import ConfigurationError
from gateway.text import text

CLASSES: Final = ("GatewaySpawner", "BatchSpawnerBase")

# trait of batchspawner 1.3 -> where the same is said here
REPLACED: Final[dict[str, str]] = {
    "req_queue": "partitions (cluster profile)",
    "req_partition": "partitions (cluster profile)",
    "req_host": "login.hosts (cluster profile)",
    "req_memory": "partitions.<name>.max_memory (cluster profile)",
    "req_nprocs": "partitions.<name>.max_cores (cluster profile)",
    "req_ngpus": "partitions.<name>.max_gpus (cluster profile)",
    "req_runtime": "partitions.<name>.default_walltime and max_walltime (cluster profile)",
    "req_account": "the account that the user chooses in the form",
    "req_options": "the job template of the cluster profile",
    "req_prologue": "environments.<name>.setup (cluster profile)",
    "req_epilogue": "the job template of the cluster profile",
    "req_username": "the identity table (gateway.yml, identity.table)",
    "req_homedir": "nothing: the job starts in the cluster user's own home",
    "req_keepvars": "nothing: the environment travels over the tunnel",
    "req_keepvars_extra": "c.Spawner.environment",
    "req_gres": "partitions.<name>.max_gpus (cluster profile)",
    "req_cluster": "one cluster profile for each cluster",
    "req_qos": "the QoS that the user chooses in the form",
    "req_reservation": "the reservation that the user chooses in the form",
    "batch_script": "job_template (cluster profile)",
    "batch_submit_cmd": "scheduler (cluster profile)",
    "batch_query_cmd": "scheduler (cluster profile)",
    "batch_cancel_cmd": "scheduler (cluster profile)",
    "batchspawner_singleuser_cmd": "environments.<name> (cluster profile)",
    "exec_prefix": "roles.user (cluster profile)",
    "startup_poll_interval": "nothing: one query serves all launches of a cluster",
}


def find_replaced(config: Mapping[str, Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return ``(Class.trait, what replaces it)`` for each configured trait without effect."""
    found = []
    for class_name in CLASSES:
        for trait in config.get(class_name, {}):
            replacement = REPLACED.get(trait)
            if replacement is None and trait.startswith(("req_", "batch_", "state_")):
                replacement = "the cluster profile"
            if replacement is not None:
                found.append((f"{class_name}.{trait}", replacement))
    return found


def check_inherited(config: Mapping[str, Mapping[str, object]]) -> None:
    """Check that no replaced trait is configured.

    :raises ConfigurationError: naming every such trait and what replaces it.
    """
    found = find_replaced(config)
    if found:
        lines = "; ".join(f"c.{name} -> {replacement}" for name, replacement in found)
        raise ConfigurationError(
            text(
                "These settings have no effect here; use what replaces them instead: {lines}",
                lines=lines,
            ),
            reason="replaced_setting",
        )
