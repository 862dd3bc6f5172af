"""How every kernel of this package is compiled: parallel where asked, cached on disk, safe from threads and after fork().

The cache folder is named after the sources' names, sizes and times, because Numba watches only the file of the function
itself: without that a changed register tile would leave every kernel that contains it stale. Where no folder can be
written, kernels are compiled afresh in each process and nothing fails.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.np.ufunc import parallel as numba_parallel

PACKAGE = Path(__file__).resolve().parent
UNUSED_DAYS = 30
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@cache
def source_fingerprint() -> str:
    """16 hex digits that change when a source file of the package does."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        stat = path.stat()
        digest.update(f"{path.relative_to(PACKAGE)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def user_cache_folder() -> Path:
    """Where this package keeps what can be made again."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tconv_bench"


@cache
def cache_folder() -> str | None:
    """A writable folder for compiled kernels, or None. The user's NUMBA_CACHE_DIR comes first."""
    base = Path(numba.config.CACHE_DIR) if numba.config.CACHE_DIR else user_cache_folder() / "kernels"
    folder = base / source_fingerprint()
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            _drop_unused(base)
        os.utime(folder)
    except (OSError, RuntimeError):
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


def _drop_unused(base: Path) -> None:
    """Remove the kernels of sources that no process has used for UNUSED_DAYS."""
    oldest = time.time() - UNUSED_DAYS * 86400
    for folder in base.iterdir():
        if _FINGERPRINT.fullmatch(folder.name) and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


@cache
def _load_tbb() -> None:
    """Make the ``tbb`` package's library visible: Numba does not look for it in a virtual environment.

    Of Numba's threading layers only TBB survives both concurrent calls and a fork() after the first parallel call.
    """
    for name in ("libtbb.so.12", "libtbb.12.dylib"):
        path = Path(sys.prefix) / "lib" / name
        if path.exists():
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return


def threads() -> int:
    """Threads that a parallel kernel runs on now: ``numba.get_num_threads`` without its locks, 0.1 us for 0.7."""
    count = getattr(numba_parallel, "_get_num_threads", numba.get_num_threads)  # only there once the threads are started
    return int(count())


def kernel(function: Callable[..., Any] | None = None, *, parallel: bool = False) -> Any:
    """``numba.njit`` with this package's options: no GIL, NumPy's division, contraction to fused multiply-add.

    Parallel kernels are what Python calls and what is cached; the others are parts of them. NumPy's functions are not parallel
    in either: an ``np.zeros(1)`` would start all threads, 2 us and more.
    """
    if function is None:
        return lambda f: kernel(f, parallel=parallel)
    _load_tbb()
    ways = {"numpy": False} if parallel else False
    options = {"parallel": ways, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    return _of_types_alone(_compiled(numba.njit, function, options, cached=parallel))


def _of_types_alone(part: Any) -> Any:
    """Numba would compile a part once more for each constant that it is called with: 7.1 s instead of 5.7 for phase's task."""
    found = part.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return found(tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()})

    part.get_call_template = get_call_template
    return part


def native(signature: Any, function: Callable[..., Any]) -> Any:
    """``numba.cfunc`` of a function: machine code made once (and cached) that kernels call by its ``address``.

    A part that kernels contain is compiled again in each of them and at every level between.
    """
    options = {"error_model": "numpy", "fastmath": {"contract"}}
    return _compiled(functools.partial(numba.cfunc, signature), function, options, cached=True)


def _compiled(compiler: Callable[..., Any], function: Callable[..., Any], options: dict[str, Any], *, cached: bool) -> Any:
    folder = cache_folder() if cached else None
    if folder is None:
        return compiler(**options)(function)
    users_choice = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder
    try:
        return compiler(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = users_choice
