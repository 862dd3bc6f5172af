"""What a new process pays: the import, and a method's first call with its kernels on the disk or still to compile.

Each sample is a fresh process.
"""

from __future__ import annotations

from benchmarks import common

_CALL = """
from tconv_bench import measure, registry
from tconv_bench.problem import Problem
measure.compile_for(Problem(1, 1, (4, 4), 1, 3), registry.get({variant!r}))
"""
_EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


class _Process:
    number = 1
    repeat = common.PROFILE.startup_samples
    warmup_time = 0
    min_run_count = 1
    rounds = 1


class Import(_Process):
    def timeraw_import(self) -> str:
        return "import tconv_bench"


class FirstCall(_Process):
    params = [list(common.VARIANTS)]
    param_names = ["variant"]

    def timeraw_loaded(self, variant: str) -> str:
        return _CALL.format(variant=variant)


if common.PROFILE.compilation:

    class FirstCompilation(_Process):
        params = [list(common.VARIANTS)]
        param_names = ["variant"]

        def timeraw_compiled(self, variant: str) -> tuple[str, str]:
            return _CALL.format(variant=variant), _EMPTY_CACHE
