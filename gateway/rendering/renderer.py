"""From a profile and a request to a job script. Reads template files; pure otherwise."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jinja2

from gateway.errors import ConfigurationError
from gateway.profiles.models import ClusterProfile
from gateway.rendering.checks import SIZE_LIMIT, check_script
from gateway.rendering.context import build_context
from gateway.rendering.quoting import QuotingError
from gateway.rendering.sandbox import TemplateEnvironment, build_range
from gateway.text import text
from gateway.values.jobs import JobRequest, JobScript

SECONDS_LIMIT: Final = 2.0


def shipped_template_directory() -> Path:
    """Return the templates that come with the package.

    They lie beside the package in a checkout, and in ``share/landfall`` of the environment
    (wheel data, :pep:`427`) once installed.

    :raises ConfigurationError: the installation is incomplete.
    """
    candidates = (
        Path(__file__).resolve().parents[2] / "job_templates",
        Path(sys.prefix) / "share" / "landfall" / "job_templates",
    )
    for directory in candidates:
        if (directory / "_base.sh.j2").is_file():
            return directory
    raise ConfigurationError(
        text("The job templates of the package are missing; install it again."),
        detail=", ".join(map(str, candidates)),
        reason="templates_missing",
    )


class Renderer:
    """Renders job templates; ``template_directories`` of the site come before the shipped ones."""

    def __init__(self, template_directories: Sequence[Path]) -> None:
        self._environment = TemplateEnvironment(
            [*template_directories, shipped_template_directory()]
        )

    def render(self, profile: ClusterProfile, request: JobRequest) -> JobScript:
        """Render the profile's job template for ``request`` and check the result.

        :raises ConfigurationError: naming the template, the line, and what to do.
        """
        name = profile.job_template
        if request.environment not in profile.environments:
            raise ConfigurationError(
                text(
                    "The cluster {cluster} has no environment {environment} any more.",
                    cluster=profile.name,
                    environment=request.environment,
                ),
                reason="environment_missing",
            )
        context = build_context(profile, request) | {"range": build_range()}
        try:
            script = self._render(name, context)
        except _FAILURES as error:
            raise _fault(name, f"{_place(error, name)}: {_describe(error)}") from error
        if faults := check_script(script):
            lines = "; ".join(f"line {fault.line} of the script: {fault.words}" for fault in faults)
            raise _fault(name, f"{name}: {lines}")
        return JobScript(script)

    def _render(self, name: str, context: dict[str, object]) -> str:
        deadline = time.monotonic() + SECONDS_LIMIT
        parts, size = [], 0
        for part in self._environment.get_template(name).generate(context):
            size += len(part)
            if size > SIZE_LIMIT:
                raise _Excess(f"the script grows beyond {SIZE_LIMIT // 1024} KiB")
            if time.monotonic() > deadline:
                raise _Excess(f"rendering takes longer than {SECONDS_LIMIT:g} seconds")
            parts.append(part)
        return "".join(parts)


class _Excess(Exception):
    pass


# What template code can raise by itself: wrong types, wrong attributes, endless recursion.
_FAILURES: Final = (
    jinja2.TemplateError,
    QuotingError,
    _Excess,
    UnicodeDecodeError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    MemoryError,
)


def _describe(error: BaseException) -> str:
    match error:
        case jinja2.TemplateNotFound():
            return f"there is no template {error.name}; check job_template and extends"
        case jinja2.UndefinedError():
            return f"{error.message}; the variables are cluster, job, resources, environment"
        case UnicodeDecodeError():
            return f"the file is not UTF-8 (at byte {error.start}); save it as UTF-8"
        case RecursionError():
            return "it calls itself without end"
        case jinja2.TemplateError():
            return error.message or type(error).__name__
        case _:
            return str(error) or type(error).__name__


def _place(error: BaseException, name: str) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename or name}:{error.lineno}"
    # Jinja2 rewrites tracebacks so that frames of templates carry the template's file and line.
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.endswith(".j2"):
            return f"{frame.filename}:{frame.lineno}"
    return name


def _fault(template: str, detail: str) -> ConfigurationError:
    return ConfigurationError(
        text(
            "The job template {template} of this cluster has a fault; its admin must correct it.",
            template=template,
        ),
        detail=detail,
        reason="job_template",
    )
