from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.rendering import renderer
from gateway.rendering.renderer import Renderer, shipped_template_directory
from tests.unit.rendering.samples import build_profile, build_request


def render(directory: Path, template: str, **environment: object) -> str:
    (directory / "site.sh.j2").write_text(template)
    profile = build_profile(template="site.sh.j2", **environment)
    return Renderer([directory]).render(profile, build_request()).text


def fault(directory: Path, template: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        render(directory, template)
    assert caught.value.reason == "job_template"
    assert caught.value.user_message.render("fr").startswith("Le modèle de job")
    return caught.value.detail


def test_every_variable_can_be_printed(tmp_path: Path) -> None:
    script = render(
        tmp_path,
        "#!/bin/sh\n#SBATCH --constraint={{ resources.gpu_kind | directive }}\n"
        "{% for name in (cluster.name, cluster.scheduler, job.user, job.log_path, "
        "resources.walltime, resources.walltime_seconds, resources.memory_mib, "
        "resources.memory_mib * 2, environment.name) %}\n"
        "export A={{ name | env }}\n{% endfor %}\n"
        "{% for i in range(3) %}\necho {{ i | sh }}\n{% endfor %}\n",
    )
    assert "#SBATCH --constraint=a100\n" in script
    for value in ("north", "slurm", "alice", "01:00:00", "3600", "4096", "8192", "science"):
        assert f"export A='{value}'\n" in script
    assert "echo 2\n" in script


@pytest.mark.parametrize(
    "expression",
    [
        "job.name",
        '"text"',
        "resources.cores",
        "job.name | sh | upper",
        '"--x=" ~ (job.name | sh)',
        "environment.modules",
        "self.other()",
    ],
)
def test_an_unquoted_value_is_refused(tmp_path: Path, expression: str) -> None:
    template = f"#!/bin/sh\n{{% block other %}}{{% endblock %}}\necho {{{{ {expression} }}}}\n"
    detail = fault(tmp_path, template)
    assert "/site.sh.j2:3: " in detail
    assert "quoting filter" in detail


def test_set_up_lines_are_printed_as_written(tmp_path: Path) -> None:
    line = "source '/opt/a b' && export X=\"$Y\""
    script = render(
        tmp_path,
        "#!/bin/sh\n{% for line in environment.setup %}\n{{ line }}\n{% endfor %}\n",
        setup=[line],
    )
    assert script == f"#!/bin/sh\n{line}\n"


def test_a_site_extends_a_block_and_keeps_ours(tmp_path: Path) -> None:
    script = render(
        tmp_path,
        '{% extends "slurm/notebook.sh.j2" %}\n'
        "{% block directives %}\n#SBATCH --constraint={{ job.user | directive }}\n{% endblock %}\n"
        "{% block prologue %}\n{{ super() }}\nexport SITE={{ job.user | env }}\n{% endblock %}\n",
    )
    assert script.startswith("#!/bin/bash\n#SBATCH --constraint=alice\n")
    assert "unset SLURM_EXPORT_ENV" in script
    assert "export SITE='alice'" in script


@pytest.mark.parametrize(
    ("template", "place", "words"),
    [
        ("#!/bin/sh\n{% if %}\n", "site.sh.j2:2", "Expected an expression"),
        ("#!/bin/sh\n{{ partitoin | sh }}\n", "site.sh.j2:2", "'partitoin' is undefined"),
        ("#!/bin/sh\n{{ partitoin }}\n", "site.sh.j2:2", "'partitoin' is undefined"),
        ("#!/bin/sh\n{% block a %}\n{{ super() }}{% endblock %}", "site.sh.j2:3", "parent block"),
        ("#!/bin/sh\n\n{{ job.nmae | sh }}\n", "site.sh.j2:3", "nmae"),
        ("#!/bin/sh\n{{ ''.__class__.__mro__ | sh }}\n", "site.sh.j2:2", "unsafe"),
        ("#!/bin/sh\n{{ job.__init__ | sh }}\n", "site.sh.j2:2", "unsafe"),
        ('#!/bin/sh\n{% include "/etc/shadow" %}\n', "site.sh.j2:2", "no template /etc/shadow"),
        ('#!/bin/sh\n{% include "../../x" %}\n', "site.sh.j2:2", "no template"),
        ("#!/bin/sh\n{% for i in range(10**9) %}{% endfor %}\n", "site.sh.j2:2", "operator **"),
        ("#!/bin/sh\n{% for i in range(999999999) %}{% endfor %}\n", "site.sh.j2:2", "10000"),
        ("#!/bin/sh\n{{ ('x' * 999999999) | sh }}\n", "site.sh.j2:2", "operator *"),
        ("#!/bin/sh\n{{ ('%999999999d' % 1) | sh }}\n", "site.sh.j2:2", "operator %"),
        ("#!/bin/sh\n{{ (1 / 0) | sh }}\n", "site.sh.j2:2", "division"),
        ("#!/bin/sh\n{{ (1 + 'a') | sh }}\n", "site.sh.j2:2", "unsupported operand"),
        ("#!/bin/sh\n{{ job.name | unknown }}\n", "site.sh.j2:2", "No filter named"),
        (
            "#!/bin/sh\n{% macro m() %}{{ m() | sh }}{% endmacro %}{{ m() | sh }}\n",
            "site.sh.j2:2",
            "without end",
        ),
        ("#!/bin/sh\n#SBATCH -p {{ job.directory ~ ' x' | directive }}\n", "site.sh.j2:2", " x"),
        ("echo x\n", "site.sh.j2", "does not begin with #!"),
        ("#!/bin/sh\nset -x\n", "site.sh.j2", "line 2 of the script: set -x"),
        ("#!/bin/sh\n" + "x" * 70000, "site.sh.j2", "64 KiB"),
        (
            "#!/bin/sh\n{% for i in range(5000) %}\necho {{ job.directory | sh }}\n{% endfor %}",
            "site.sh.j2",
            "64 KiB",
        ),
    ],
)
def test_a_faulty_template_is_named_with_its_line(
    tmp_path: Path, template: str, place: str, words: str
) -> None:
    detail = fault(tmp_path, template)
    assert f"{place}: " in detail
    assert words in detail


def test_line_ends_of_another_system_are_put_right(tmp_path: Path) -> None:
    (tmp_path / "site.sh.j2").write_bytes(b"#!/bin/sh\r\necho\r\n")
    script = Renderer([tmp_path]).render(build_profile(template="site.sh.j2"), build_request())
    assert script.text == "#!/bin/sh\necho\n"


def test_nested_loops_over_one_range_end(tmp_path: Path) -> None:
    template = (
        "#!/bin/sh\n{% set r = range(9000) %}"
        "{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}\n"
    )
    assert render(tmp_path, template).startswith("#!/bin/sh")


def test_a_template_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "site.sh.j2").write_bytes(b"#!/bin/sh\n# \xe9\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        Renderer([tmp_path]).render(build_profile(template="site.sh.j2"), build_request())


def test_a_missing_template(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no template gone\.sh\.j2"):
        Renderer([tmp_path]).render(build_profile(template="gone.sh.j2"), build_request())


def test_an_environment_that_is_gone() -> None:
    with pytest.raises(ConfigurationError, match="no environment old"):
        Renderer([]).render(build_profile(), build_request(environment="old"))


def test_a_control_character_in_a_request_never_reaches_a_script() -> None:
    request = build_request(start_directory="x\n#SBATCH --uid=0")
    with pytest.raises(ConfigurationError, match="control character"):
        Renderer([]).render(build_profile(), request)


def test_the_site_comes_before_the_shipped_templates(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/notebook.sh.j2").write_text("#!/bin/sh\necho site\n")
    assert Renderer([tmp_path]).render(build_profile(), build_request()).text.endswith("site\n")


def test_slow_rendering_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "SECONDS_LIMIT", -1.0)
    assert "takes longer" in fault(tmp_path, "#!/bin/sh\necho {{ job.name | sh }}\n")


def test_templates_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "prefix/share/landfall/job_templates"
    shared.mkdir(parents=True)
    (shared / "_base.sh.j2").write_text("")
    monkeypatch.setattr(renderer, "__file__", str(tmp_path / "lib/gateway/rendering/renderer.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    assert shipped_template_directory() == shared
    (shared / "_base.sh.j2").unlink()
    with pytest.raises(ConfigurationError, match="install it again"):
        shipped_template_directory()
