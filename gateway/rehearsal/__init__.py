"""The embedded cluster of the demo: SSH servers and a small Slurm look-alike."""
