"""Sphinx configuration."""

from __future__ import annotations

import gateway

project = "Landfall"
author = "the Landfall developers"
project_copyright = "2026, the Landfall developers"
release = version = gateway.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
nitpicky = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["landfall.css"]
html_title = f"Landfall {release}"
html_show_sphinx = False
html_copy_source = False
