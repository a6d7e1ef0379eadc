"""A small hierarchical tree of environment modules for Lmod. Pure: relative path to content.

It lies in the cluster's private /etc, so that it has one path on every bed and is not on the hub.
"""

from __future__ import annotations

TREE = "/etc/modulefiles"

MODULES = {
    "Core/StdEnv/2023.lua": 'help("The standard environment")\nsetenv("LANDFALL_STDENV", "2023")\n',
    "Core/gcc/12.3.lua": (
        'whatis("Compiler: the GNU compilers")\nfamily("compiler")\n'
        f'setenv("LANDFALL_TEST_GCC", "12.3")\nprepend_path("MODULEPATH", "{TREE}/gcc12")\n'
    ),
    "Core/gcc/13.1.lua": 'family("compiler")\nsetenv("LANDFALL_TEST_GCC", "13.1")\n',
    "Core/intel/2023.lua": 'family("compiler")\nsetenv("LANDFALL_TEST_INTEL", "2023")\n',
    "gcc12/openmpi/4.1.lua": 'family("mpi")\nsetenv("LANDFALL_TEST_MPI", "openmpi-4.1")\n',
    "Core/python/3.11.lua": (
        'whatis("Python 3.11")\nsetenv("LANDFALL_TEST_MODULE", "python-3.11")\n'
    ),
    "Core/broken/1.0.lua": "this is not a module file (\n",
    "Core/failing/1.0.lua": 'LmodError("This module needs a licence that you do not hold")\n',
    "Core/conflicting/1.0.lua": 'conflict("python")\nsetenv("LANDFALL_TEST_CONFLICT", "1")\n',
    "Core/needy/1.0.lua": 'depends_on("python/3.11")\n',
}

# Read by Debian's /etc/profile.d/lmod.sh.
MODULESPATH = f"{TREE}/Core\n"

# Sourced after lmod.sh, by name. The guard is the one of Lmod's own documentation: a shell that
# inherits an environment keeps its modules.
PROFILE = """\
if [ -z "${__Init_Default_Modules-}" ]; then
    export __Init_Default_Modules=1
    export LMOD_SYSTEM_DEFAULT_MODULES=StdEnv/2023
    module --initial_load --no_redirect restore
fi
"""
