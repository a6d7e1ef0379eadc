"""What one user may choose on one cluster, here and now; and whether a request keeps to it.

Pure: the profile bounds, the scheduler's live values narrow, never widen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from pydantic import ValidationError

from gateway.errors import RequestRejected
from gateway.options.models import SpawnOptions
from gateway.profiles.models import ClusterProfile, EnvironmentProfile, PartitionProfile
from gateway.schedulers.base import Association, Partition, Reservation
from gateway.text import Fixed, Text, Words, text
from gateway.values.resources import MemorySize, format_walltime

SHOWN_LENGTH: Final = 80


@dataclass(frozen=True, slots=True)
class GpuOffer:
    """GPUs of one kind that one job may have; ``free`` is a count of this moment."""

    kind: str | None
    max: int
    free: int


@dataclass(frozen=True, slots=True)
class PartitionOffer:
    """A partition with the limits that hold for this user."""

    name: str
    title: Words
    up: bool
    max_walltime: timedelta
    default_walltime: timedelta
    max_cores: int
    max_memory: MemorySize
    free_cores: int | None
    gpus: tuple[GpuOffer, ...] = ()
    accounts: frozenset[str] | None = None
    qos: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """Everything one user may choose on one cluster. ``live`` tells whether the scheduler was
    asked; without it the profile's own limits stand. ``accounts_known`` tells the same of the
    accounts: when they could not be asked, the scheduler judges the one that was written."""

    cluster: str
    partitions: Mapping[str, PartitionOffer]
    default_partition: str
    environments: Mapping[str, EnvironmentProfile]
    accounts: tuple[Association, ...] = ()
    accounts_required: bool = False
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    live: bool = True
    accounts_known: bool = True


def build_choices(
    profile: ClusterProfile,
    partitions: Sequence[Partition] | None,
    associations: Sequence[Association] | None,
    reservations: Sequence[Reservation],
    groups: frozenset[str] | None = None,
) -> Choices:
    """Narrow the profile by what the scheduler says; ``None`` means that it could not be asked.

    ``groups`` are the user's POSIX groups on the cluster, ``None`` when not known.
    """
    offers: dict[str, PartitionOffer] = {}
    live = {partition.name: partition for partition in partitions or ()}
    for name, bounds in profile.partitions.items():
        if partitions is None:
            offers[name] = _offer_from_profile(name, bounds)
        elif name in live and _admits(live[name], groups):
            offers[name] = _offer_from_live(bounds, live[name])
    accounts = _allowed_accounts(profile, associations)
    if accounts:
        names = {account.account for account in accounts}
        offers = {
            name: offer
            for name, offer in offers.items()
            if offer.accounts is None or offer.accounts & names
        }
    default = profile.default_partition or next(iter(profile.partitions))
    if default not in offers and offers:
        default = next(iter(offers))
    return Choices(
        cluster=profile.name,
        partitions=offers,
        default_partition=default,
        environments=profile.environments,
        accounts=accounts,
        accounts_required=bool(accounts),
        reservations={item.name: item for item in reservations if not item.maintenance},
        live=partitions is not None,
        accounts_known=profile.accounts != "from_scheduler" or associations is not None,
    )


def _offer_from_profile(name: str, bounds: PartitionProfile) -> PartitionOffer:
    return PartitionOffer(
        name=name,
        title=_title(name, bounds),
        up=True,
        max_walltime=bounds.max_walltime,
        default_walltime=bounds.default_walltime,
        max_cores=bounds.max_cores,
        max_memory=bounds.max_memory,
        free_cores=None,
        gpus=(GpuOffer(None, bounds.max_gpus, 0),) if bounds.max_gpus else (),
    )


def _offer_from_live(bounds: PartitionProfile, live: Partition) -> PartitionOffer:
    max_walltime = min(bounds.max_walltime, live.max_walltime or bounds.max_walltime)
    memory = live.memory_largest_node or bounds.max_memory
    return PartitionOffer(
        name=live.name,
        title=_title(live.name, bounds),
        up=live.up,
        max_walltime=max_walltime,
        default_walltime=min(bounds.default_walltime, max_walltime),
        max_cores=min(bounds.max_cores, live.cores_largest_node or bounds.max_cores),
        max_memory=min(bounds.max_memory, memory),
        free_cores=live.cores_free,
        gpus=tuple(
            GpuOffer(gpu.kind, min(bounds.max_gpus, gpu.largest_node), gpu.free)
            for gpu in live.gpus
            if min(bounds.max_gpus, gpu.largest_node) > 0
        ),
        accounts=live.allowed_accounts,
        qos=live.allowed_qos,
    )


def _title(name: str, bounds: PartitionProfile) -> Words:
    return Fixed(bounds.title.en, bounds.title.fr) if bounds.title else Fixed(name, name)


def _admits(partition: Partition, groups: frozenset[str] | None) -> bool:
    allowed = partition.allowed_groups
    return allowed is None or groups is None or bool(allowed & groups)


def _allowed_accounts(
    profile: ClusterProfile, associations: Sequence[Association] | None
) -> tuple[Association, ...]:
    if profile.accounts == "none":
        return ()
    if profile.accounts == "from_scheduler":
        return tuple(associations or ())
    listed = set(profile.accounts)
    if associations:
        return tuple(item for item in associations if item.account in listed)
    return tuple(Association(account=name) for name in profile.accounts)


def check_options(raw: Mapping[str, Any], offered: Mapping[str, Choices]) -> SpawnOptions:
    """Return the validated request, or say everything that is wrong with it at once.

    ``offered`` holds the user's choices by cluster name. Blank optional values count as absent; a
    missing account becomes the user's default one.

    :raises RequestRejected: ``fields`` names each faulty field.
    """
    try:
        options = SpawnOptions.model_validate(dict(raw))
    except ValidationError as error:
        raise _reject(_grammar_faults(error, raw)) from None
    choices = offered.get(options.cluster)
    if choices is None:
        raise _reject({"cluster": _not_among(options.cluster, offered)})
    faults: dict[str, Words] = {}
    offer = choices.partitions.get(options.partition)
    if offer is None:
        faults["partition"] = _not_among(options.partition, choices.partitions)
    else:
        faults |= _partition_faults(options, offer)
    if options.environment not in choices.environments:
        faults["environment"] = _not_among(options.environment, choices.environments)
    if options.reservation and options.reservation not in choices.reservations:
        faults["reservation"] = text(
            "no reservation of that name is open to you. Leave it empty, or choose one of the list"
        )
    account, account_faults = _check_account(options, choices, offer)
    faults |= account_faults
    if fault := _directory_fault(options.start_directory):
        faults["start_directory"] = fault
    if faults:
        raise _reject(faults)
    return options.model_copy(update={"account": account})


def _partition_faults(options: SpawnOptions, offer: PartitionOffer) -> dict[str, Words]:
    faults: dict[str, Words] = {}
    if not offer.up:
        faults["partition"] = text("this partition takes no jobs at present. Choose another one")
    if options.walltime > offer.max_walltime:
        faults["walltime"] = text(
            "at most {limit} in this partition", limit=format_walltime(offer.max_walltime)
        )
    if options.cores > offer.max_cores:
        faults["cores"] = text("at most {limit} in this partition", limit=offer.max_cores)
    if options.memory > offer.max_memory:
        faults["memory"] = text("at most {limit} in this partition", limit=str(offer.max_memory))
    kinds = {gpu.kind: gpu for gpu in offer.gpus}
    if options.gpus:
        if not kinds:
            faults["gpus"] = text("this partition has no GPUs. Write 0, or choose another one")
        elif options.gpu_kind is not None and options.gpu_kind not in kinds and None not in kinds:
            faults["gpu_kind"] = _not_among(options.gpu_kind, [str(kind) for kind in kinds])
        else:
            fitting = kinds.get(options.gpu_kind) or max(kinds.values(), key=lambda gpu: gpu.max)
            if options.gpus > fitting.max:
                faults["gpus"] = text("at most {limit} in this partition", limit=fitting.max)
    elif options.gpu_kind is not None:
        faults["gpu_kind"] = text("a kind of GPU makes sense only with at least one GPU")
    return faults


def _check_account(
    options: SpawnOptions, choices: Choices, offer: PartitionOffer | None
) -> tuple[str | None, dict[str, Words]]:
    if not choices.accounts:
        if options.account and choices.live and choices.accounts_known:
            return options.account, {
                "account": text("this cluster has no accounts for you to choose. Leave it empty")
            }
        return options.account, {}
    allowed = offer.accounts if offer is not None else None
    usable = [item for item in choices.accounts if allowed is None or item.account in allowed]
    if options.account is None:
        default = next((item for item in usable if item.default), usable[0] if usable else None)
        account = default.account if default else None
    else:
        account = options.account
    chosen = [item for item in usable if item.account == account]
    if not chosen:
        names = sorted({item.account for item in usable})
        return account, {"account": _not_among(account or "", names)}
    if options.qos is not None and all(options.qos not in item.qos for item in chosen):
        qos = sorted({name for item in chosen for name in item.qos})
        return account, {"qos": _not_among(options.qos, qos)}
    return account, {}


def _directory_fault(directory: str | None) -> Words | None:
    if directory is None:
        return None
    parts = directory.split("/")
    printable = directory.isprintable() and not any(c in directory for c in "\\`$\"'")
    if directory.startswith(("/", "~", "-")) or ".." in parts or not printable:
        return text("write a directory below your home, such as projects/thesis")
    return None


_TYPE_WORDS: Final[dict[str, Text]] = {
    "missing": text("required"),
    "extra_forbidden": text("unknown option"),
    "int_type": text("must be a whole number"),
    "int_from_float": text("must be a whole number"),
    "string_type": text("must be text"),
    "string_pattern_mismatch": text("has characters that no such name holds"),
    "string_too_long": text("is too long"),
}


def _grammar_faults(error: ValidationError, raw: Mapping[str, Any]) -> dict[str, Words]:
    faults: dict[str, Words] = {}
    for item in error.errors(include_url=False, include_context=True):
        name = show(str(item["loc"][0])) if item["loc"] else "options"
        if words := _TYPE_WORDS.get(item["type"]):
            faults[name] = words
        elif item["type"] in ("greater_than_equal", "less_than_equal"):
            context = item.get("ctx", {})
            faults[name] = (
                text("at least {limit}", limit=context["ge"])
                if "ge" in context
                else text("at most {limit}", limit=context["le"])
            )
        elif name == "memory":
            faults[name] = text("write an amount with its unit, such as 4G or 512M")
        elif name == "walltime":
            faults[name] = text("write a time such as 8:00:00, 8h or 90m")
        else:
            faults[name] = text("is not understood: {value}", value=show(raw.get(name)))
    return faults


def _reject(faults: Mapping[str, Words]) -> RequestRejected:
    first = ", ".join(sorted(faults))
    return RequestRejected(
        text("This request cannot be started as it is. Please check: {fields}.", fields=first),
        reason="options",
        fields=faults,
    )


def _not_among(value: str, allowed: Any) -> Text:
    names = ", ".join(str(name) for name in allowed)
    if not names:
        return text('"{value}" is not open to you', value=show(value))
    return text(
        '"{value}" is not open to you. Choose one of: {names}', value=show(value), names=names
    )


def show(value: object) -> str:
    """Return ``value`` fit for a message: control characters escaped, cut after 80 characters."""
    shown = str(value).encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= SHOWN_LENGTH else shown[: SHOWN_LENGTH - 3] + "..."
