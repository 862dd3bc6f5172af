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
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numba
from numba import types
from numba.np.ufunc import parallel as numba_parallel

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

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


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process or thread is in here with the same lock file; OSError where its folder cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        _lock(file)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":

    def _lock(file: IO[bytes]) -> None:
        """Wait for the file, for 10 seconds at most (then OSError)."""
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _lock(file: IO[bytes]) -> None:
        """Wait for the file."""
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: IO[bytes]) -> None:
        """Free it now: closing it would not, had another thread forked meanwhile."""
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def _alone_where_possible(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(alone(path))
        yield


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
    # the former is only there once the threads are started
    count: int = getattr(numba_parallel, "_get_num_threads", numba.get_num_threads)()
    return count


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
    folder = cache_folder() if parallel else None
    if folder is None:
        return _of_types_alone(numba.njit(**options)(function))
    compiled = _cached_in(folder, numba.njit, function, options)
    save = compiled._cache.save_overload

    def save_alone(signature: Any, result: Any) -> None:
        # Two processes that save at once, of two dtypes, could leave the code of one under the name of the other.
        with _alone_where_possible(Path(folder, f"{function.__qualname__}.lock")):
            save(signature, result)

    compiled._cache.save_overload = save_alone
    return _of_types_alone(compiled)


def _of_types_alone(part: Any) -> Any:
    """Numba would compile a part once more for each constant that it is called with: 7.1 s instead of 5.7 for phase's task."""
    found = part.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return found(tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()})

    part.get_call_template = get_call_template
    return part


def native(signature: Any, function: Callable[..., Any]) -> Any:
    """``numba.cfunc`` of a function: machine code made once (and cached) that kernels call by its ``address``.

    A part that kernels contain is compiled again in each of them and at every level between. Of processes that need it at the
    same time one compiles it, and the others wait for that.
    """
    compiler = functools.partial(numba.cfunc, signature)
    options = {"error_model": "numpy", "fastmath": {"contract"}}
    folder = cache_folder()
    if folder is None:
        return compiler(**options)(function)
    own = Path(folder, f"{zlib.crc32(str(signature).encode()):08x}")
    with _alone_where_possible(own / f"{function.__module__}.{function.__qualname__}.lock"):
        return _cached_in(str(own), compiler, function, options)


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


METH_FASTCALL = 0x80
_methods: list[tuple[Any, _Method]] = []


def python_function(function: Callable[..., Any]) -> Callable[..., int]:
    """What calls machine code ``intp(intp self, intp* objects, intp count)`` with its arguments' addresses, holding the GIL.

    The code returns a new reference. A call takes 0.03 us, one of a Numba function with four arrays 0.7.
    """
    code = native(types.intp(types.intp, types.CPointer(types.intp), types.intp), function)
    method = _Method(function.__name__.encode(), code.address, METH_FASTCALL, None)
    _methods.append((code, method))
    make = ctypes.PYFUNCTYPE(ctypes.py_object, *(ctypes.c_void_p,) * 3)(("PyCFunction_NewEx", ctypes.pythonapi))
    called: Callable[..., int] = make(ctypes.addressof(method), None, None)
    return called


def _cached_in(folder: str, compiler: Callable[..., Any], function: Callable[..., Any], options: dict[str, Any]) -> Any:
    users_choice = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder
    try:
        return compiler(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = users_choice
