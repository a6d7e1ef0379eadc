"""Combine the coverage of all suites; 90 % in all, 100 % where nothing but logic is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PURE = [
    "gateway/values/*",
    "gateway/options/*",
    "gateway/schedulers/slurm/*",
    "gateway/schedulers/pbs/*",
    "gateway/schedulers/gridengine/*",
    "gateway/rendering/*",
    "gateway/signer/policy.py",
]


def main() -> int:
    coverage = [sys.executable, "-m", "coverage"]
    data = Path(os.environ.get("COVERAGE_FILE", ".coverage"))
    if not any(data.parent.glob(f"{data.name}.*")):
        print("no coverage was recorded: run the other suites first")
        return 1
    subprocess.run([*coverage, "combine", "--quiet"], check=True)
    whole = subprocess.run([*coverage, "report", "--fail-under=90"], check=False)
    pure = subprocess.run(
        [*coverage, "report", "--fail-under=100", f"--include={','.join(PURE)}"], check=False
    )
    return max(whole.returncode, pure.returncode)


if __name__ == "__main__":
    sys.exit(main())
