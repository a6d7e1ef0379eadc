"""Slurm 22.05 to 26.05 through its command-line tools."""
