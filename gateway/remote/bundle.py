"""The agent as one file: a zip that Python runs (zipapp), the same bytes at every build."""

import io
import zipfile
from importlib import resources


def build_agent() -> bytes:
    """Pack ``__main__.py`` and ``landfall_agent/``; about 10 kB."""
    here = resources.files(__package__)
    members = {"__main__.py": here.joinpath("__main__.py").read_bytes()}
    for entry in here.joinpath("landfall_agent").iterdir():
        if entry.name.endswith(".py"):
            members[f"landfall_agent/{entry.name}"] = entry.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members):
            # without a date: what has not changed packs to what it was
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, members[name], compress_type=zipfile.ZIP_DEFLATED)
    return packed.getvalue()
