from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rendering.checks import check_script

GOOD = "#!/bin/bash\n#SBATCH --constraint=x\n\n# words\nset -e\necho '#SBATCH'\n"


def test_a_good_script_has_no_faults() -> None:
    assert check_script(GOOD) == ()


@pytest.mark.parametrize(
    ("script", "line", "words"),
    [
        ("", 1, "begin with #!"),
        ("\n#!/bin/sh\n", 1, "begin with #!"),
        ("#!/bin/sh\n\techo\r\n", 2, "carriage return"),
        ("#!/bin/sh\n\0\n", 2, "NUL"),
        ("#!/bin/sh\necho\n#SBATCH --time=1\n", 3, "after the first command"),
        ("#!/bin/sh\necho\n#PBS -l x\n", 3, "after the first command"),
        ("#!/bin/sh\necho\n#$ -l x\n", 3, "after the first command"),
        ("#!/bin/sh\nexport JUPYTERHUB_API_TOKEN=x\n", 2, "secret"),
        ("#!/bin/sh\n-----BEGIN OPENSSH PRIVATE KEY-----\n", 2, "secret"),
        ("#!/bin/sh\nset -x\n", 2, "set -x"),
        ("#!/bin/sh\nset -eux\n", 2, "set -x"),
        ("#!/bin/sh\nset -o xtrace\n", 2, "set -x"),
        ("#!/bin/sh\ntrue; set -x\n", 2, "set -x"),
        ("#!/bin/sh\n#SBATCH --export=ALL\n", 2, "--export"),
        ("#!/bin/sh\n#PBS -l ncpus=1 -v A=b\n", 2, "-v"),
        ("#!/bin/sh\n#$ -V\n", 2, "-V"),
        ("#!/bin/sh\n#" + "x" * 70000, 1, "64 KiB"),
    ],
)
def test_faults_are_found(script: str, line: int, words: str) -> None:
    faults = check_script(script)
    assert [fault.line for fault in faults if words in fault.words] == [line]


@pytest.mark.parametrize("line", ["set +x", "set -e", "reset -x", "#$HOME is", "echo set -o pipe"])
def test_ordinary_lines_are_left_alone(line: str) -> None:
    assert check_script(f"#!/bin/sh\ntrue\n{line}\n") == ()


@given(st.text(st.characters(codec=None)))
def test_any_text_is_checked_without_an_exception(script: str) -> None:
    for fault in check_script(script):
        assert 1 <= fault.line <= script.count("\n") + 1
