"""The form: what is offered, what was typed, what is wrong with it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.connector import models
from gateway.connector.models import ClusterChoices, PartitionChoice
from gateway.text import Fixed, Language, text
from gateway.values.resources import MemorySize

FIELDS: Final = (
    "cluster",
    "partition",
    "account",
    "environment",
    "walltime",
    "cores",
    "memory",
    "gpus",
    "gpu_kind",
    "reservation",
    "start_directory",
)
NUMBERS: Final = frozenset({"cores", "gpus"})
_USUAL_MEMORY: Final = MemorySize(4096)


@dataclass(frozen=True, slots=True)
class Option:
    """One line of a select; ``limits`` is JSON for the script that narrows the other fields."""

    value: str
    label: str
    selected: bool = False
    limits: str = ""
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Tab:
    """One cluster to choose."""

    name: str
    title: str
    current: bool
    problem: str


@dataclass(frozen=True, slots=True)
class FormView:
    """All that the template shows, in the reader's language."""

    tabs: tuple[Tab, ...] = ()
    cluster: str = ""
    problem: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    partitions: tuple[Option, ...] = ()
    accounts: tuple[Option, ...] = ()
    environments: tuple[Option, ...] = ()
    reservations: tuple[Option, ...] = ()
    gpu_kinds: tuple[Option, ...] = ()
    most_gpus: int = 0
    partition: PartitionChoice | None = None


def build_options(posted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the request that a posted form is; blanks are left out, numbers become numbers.

    What does not look like a number stays text, for the connector to say so.
    """
    options: dict[str, Any] = {}
    for name in FIELDS:
        value = (posted.get(name) or [""])[-1].strip()
        if not value:
            continue
        plain = value.isascii() and value.isdecimal() and len(value) < 10
        options[name] = int(value) if name in NUMBERS and plain else value
    return options


def build_typed(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the fields for stored options, or for those of a query."""
    typed = {}
    for name in FIELDS:
        value = options.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            typed[name] = str(value)
    return typed


def build_form(
    choices: Sequence[ClusterChoices],
    typed: Mapping[str, str],
    errors: Mapping[str, str],
    language: Language,
) -> FormView:
    """Return the form for the cluster in ``typed``, or for the first that can be used."""
    current = _find_cluster(choices, typed.get("cluster", ""))
    tabs = tuple(
        Tab(
            each.name,
            _words(each.title, language),
            each is current,
            _words(each.problem, language) if each.problem else "",
        )
        for each in choices
    )
    if current is None:
        return FormView(tabs=tabs, errors=errors)
    if current.problem is not None or not current.partitions:
        problem = (
            _words(current.problem, language)
            if current.problem
            else text("You may use no partition of this cluster.").render(language)
        )
        return FormView(tabs=tabs, cluster=current.name, problem=problem, errors=errors)
    # What was chosen on another cluster means nothing here.
    if typed.get("cluster", current.name) != current.name:
        typed = {}
    partition = _find_partition(current.partitions, typed.get("partition", ""))
    values = _build_values(current, partition, typed)
    kinds = sorted({gpu.kind for each in current.partitions for gpu in each.gpus if gpu.kind})
    any_kind = text("Any kind").render(language)
    return FormView(
        tabs=tabs,
        cluster=current.name,
        values=values,
        errors=errors,
        partition=partition,
        partitions=tuple(
            Option(
                each.name,
                _describe_partition(each, language),
                each is partition,
                build_limits(each),
                not each.up,
            )
            for each in current.partitions
        ),
        accounts=tuple(
            Option(each.name, each.name, each.name == values["account"])
            for each in current.accounts
        ),
        environments=tuple(
            Option(each.name, _words(each.title, language), each.name == values.get("environment"))
            for each in current.environments
        ),
        reservations=tuple(
            Option(each.name, each.name, each.name == values.get("reservation"))
            for each in current.reservations
        ),
        gpu_kinds=(
            Option("", any_kind, not values.get("gpu_kind")),
            *(Option(kind, kind, kind == values.get("gpu_kind")) for kind in kinds),
        )
        if kinds
        else (),
        most_gpus=max((gpu.max for each in current.partitions for gpu in each.gpus), default=0),
    )


def build_limits(partition: PartitionChoice) -> str:
    """Return a partition's limits as JSON for ``form.js``."""
    return json.dumps(
        {
            "walltime": partition.max_walltime,
            "cores": partition.max_cores,
            "memory": partition.max_memory,
            "gpus": [
                {"kind": gpu.kind, "max": gpu.max, "free": gpu.free} for gpu in partition.gpus
            ],
        }
    )


def _build_values(
    cluster: ClusterChoices, partition: PartitionChoice, typed: Mapping[str, str]
) -> dict[str, str]:
    account = next((each.name for each in cluster.accounts if each.default), "")
    usual = {
        "cluster": cluster.name,
        "partition": partition.name,
        "account": account or (cluster.accounts[0].name if cluster.accounts else ""),
        "environment": cluster.environments[0].name if cluster.environments else "",
        "walltime": partition.default_walltime,
        "cores": "1",
        "memory": _usual_memory(partition),
        "gpus": "0",
        "gpu_kind": "",
        "reservation": "",
        "start_directory": "",
    }
    return {name: typed.get(name, value) for name, value in usual.items()}


def _usual_memory(partition: PartitionChoice) -> str:
    try:
        return str(min(_USUAL_MEMORY, MemorySize.parse(partition.max_memory)))
    except ValueError:
        return str(_USUAL_MEMORY)


def _describe_partition(partition: PartitionChoice, language: Language) -> str:
    title = Fixed(partition.title.en, partition.title.fr)
    if not partition.up:
        return text("{title} (closed at the moment)", title=title).render(language)
    if partition.free_cores is None:
        return title.render(language)
    return text("{title} ({free} cores free)", title=title, free=partition.free_cores).render(
        language
    )


def _find_cluster(choices: Sequence[ClusterChoices], name: str) -> ClusterChoices | None:
    for each in choices:
        if each.name == name:
            return each
    return next((each for each in choices if each.problem is None), choices[0] if choices else None)


def _find_partition(partitions: Sequence[PartitionChoice], name: str) -> PartitionChoice:
    for each in partitions:
        if each.name == name:
            return each
    return next((each for each in partitions if each.up), partitions[0])


def _words(words: models.Words, language: Language) -> str:
    return words.fr if language == "fr" else words.en
