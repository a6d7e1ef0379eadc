"""A complete cluster in network namespaces: Slurm with accounting, sshd, Lmod, and a hub host."""

from .bed import Bed, BedError
from .preconditions import why_not

__all__ = ["Bed", "BedError", "why_not"]
