"""What a measurement was made on: the machine, the versions, the commit. Read when asked for, never at import."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tconv_bench import jit

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@cache
def facts() -> dict[str, Any]:
    """The machine: name, cpu, arch, cores (usable by this process), ram (bytes or None), os, governor ("" if unreadable)."""
    return {
        "name": platform.node(),
        "cpu": _cpu_model(),
        "arch": platform.machine(),
        "cores": usable_cores(),
        "ram": _ram_bytes(),
        "os": f"{platform.system()} {platform.release()}",
        "governor": _first_line(_GOVERNOR),
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def simd_bits() -> int:
    """Width in bits of the vectors that the kernels use."""
    from tconv_bench import simd

    return 8 * simd.VECTOR_BYTES


def threading_layer() -> str:
    """Numba's threading layer ("tbb", "omp", "workqueue"); runs a small parallel loop if none ran yet."""
    import numpy as np
    from numba.np.ufunc import parallel

    from tconv_bench import registry
    from tconv_bench.problem import Problem

    running_layer: Callable[[], str] = parallel.threading_layer
    try:
        return running_layer()
    except ValueError:
        problem = Problem(1, 1, (2,), 1, 1)
        variant = registry.get(registry.methods("cpu")[0])
        state = variant.prepare(problem, np.ones(problem.weight_shape, np.float32), None)
        variant.run(state, np.ones(problem.x_shape, np.float32), np.empty(problem.out_shape, np.float32))
        return running_layer()


def threads() -> int:
    """Threads that a parallel kernel runs on."""
    import numba

    return int(numba.get_num_threads())


@cache
def versions() -> dict[str, str]:
    """Versions of Python, this package, and what the kernels are built on; "sources" is the package's fingerprint."""
    found = {"python": platform.python_version(), "sources": jit.source_fingerprint()}
    for name in ("tconv-bench", "numpy", "numba", "llvmlite", "scipy", "tbb"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, 40 hex digits, with "+changes" where files differ from it; "" outside of a checkout."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return ""
    return head + ("+changes" if is_dirty() else "")


def is_dirty() -> bool:
    """Whether the checkout's package or benchmarks differ from its commit."""
    return bool(_git("status", "--porcelain", "--untracked-files=normal", "--", "tconv_bench", "benchmarks"))


def commit_time() -> int:
    """The commit's time in milliseconds since 1970; 0 outside of a checkout."""
    return int(_git("show", "-s", "--format=%ct", "HEAD") or 0) * 1000


def _git(*arguments: str) -> str:
    root = jit.PACKAGE.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


@cache
def flush_bytes_per_core() -> int:
    """What each core must write so that all together empty their caches: twice its own and its share of the last level."""
    shared = 0
    for index in sorted(_CACHES.glob("index*")):
        if _first_line(index / "type") not in ("Data", "Unified"):
            continue
        size, sharing = _kibibytes(_first_line(index / "size")), _count_cores(_first_line(index / "shared_cpu_list"))
        shared += -(-size * 1024 // max(1, min(sharing, usable_cores())))
    return 2 * shared or 64 * 1024**2


def _kibibytes(text: str) -> int:
    return int(text[:-1]) * {"K": 1, "M": 1024}.get(text[-1], 0) if text[:-1].isdigit() else 0


def _count_cores(text: str) -> int:
    """How many cores a list such as ``0-3,8`` names."""
    ranges = [part.split("-") for part in text.split(",") if part]
    return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)
