"""Landfall: JupyterLab as a batch job on an HPC cluster, reached over SSH."""

__version__ = "0.1.0"
