"""What ``jupyterhub -f`` reads; all of it comes from the file that ``GATEWAY_SETTINGS`` names."""

from __future__ import annotations

import os
from pathlib import Path

from jupyterhub.app import JupyterHub
from traitlets.config import get_config

from gateway.hub.config import configure
from gateway.hub.inherited import check_inherited
from gateway.settings import load_settings

c = get_config()
configure(c, load_settings(Path(os.environ["GATEWAY_SETTINGS"])))
check_inherited(c)
if JupyterHub.initialized():
    # What came on the command line; it would win over this file.
    check_inherited(JupyterHub.instance().config)
