"""What ``make gpu-check`` lacks on this machine, in one sentence and before any work. Run as a script; Python's library alone.

As a script, it imports nothing of this package, which could not be imported where NumPy or Numba is missing or too new.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # no module of ours shadows the library's
    _HERE = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import time
from collections.abc import Callable

STARTED = "TCONV_BENCH_GPU_CHECK_STARTED"  # when this script was, for the command that follows it: its time counts too
OLDEST = (3, 10)
PACKAGES = {  # import name -> what pip calls it
    "numpy": "numpy",
    "numba": "numba",
    "numba_cuda": "'numba-cuda[cu13]>=0.30.4,<0.31'",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "jinja2": "jinja2",
    "rich": "rich",
    "typer": "typer",
    "pytest": "pytest",
    "torch": "torch",
}
DRY = frozenset({"numba_cuda", "pytest", "torch"})  # not needed where nothing runs on a GPU
ADDED = """
import numpy
from numba import cuda
assert cuda.implementation == "NVIDIA", "numba.cuda is Numba's own: numba-cuda takes its place from site-packages alone"
@cuda.jit
def add(values):
    at = cuda.grid(1)
    if at < values.size:
        values[at] += at
values = cuda.to_device(numpy.ones(70, numpy.float32))
add[2, 64](values)
assert (values.copy_to_host() == numpy.arange(1, 71)).all()
"""
SEEN = """
import warnings
warnings.simplefilter("ignore")
import torch
assert torch.cuda.is_available(), "torch.cuda.is_available() is False"
assert torch.backends.cudnn.is_available(), "cuDNN is not in this build"
"""


def missing(*, dry: bool = False, cudnn: bool = True, run: Callable[[str], str] | None = None) -> str:
    """The first thing that is missing, with what to do about it; "" where there is nothing.

    Args:
        dry: for a dry run, which needs no GPU.
        cudnn: whether PyTorch is to take part.
        run: runs a program in a Python of its own and returns the last line of its error, "" for none.

    Where a kernel compiles only with CUDA_HOME set to the toolkit that this machine has, it is left set.
    """
    run = run or _run
    if sys.version_info < OLDEST:
        return (
            f"Python is {sys.version.split()[0]}, but must be {'.'.join(map(str, OLDEST))} or newer: make gpu-check PYTHON=..."
        )
    left_out = (DRY if dry else frozenset()) | (frozenset() if cudnn else frozenset({"torch"}))
    absent = [module for module in PACKAGES if module not in left_out and not _installed(module)]
    if absent:
        install = " ".join(PACKAGES[name] for name in absent)
        without = "; PyTorch can be done without: GPU_CHECK=--no-cudnn" if "torch" in absent else ""
        other = "or name another Python: make gpu-check PYTHON=..."
        return f"{sys.executable} lacks {', '.join(absent)}: pip install {install}, {other}{without}"
    error = run("import numba")
    if error:
        return f"Numba {_version('numba')} does not load with NumPy {_version('numpy')} ({error}): {_older_numpy()}"
    if dry:
        return ""
    error = run(ADDED)
    if error and (toolkit := _toolkit()):
        os.environ["CUDA_HOME"] = toolkit
        if run(ADDED):
            del os.environ["CUDA_HOME"]
        else:
            error = ""
    if error:
        return _why(error)
    error = run(SEEN) if cudnn else ""
    if error:
        return f"PyTorch {_version('torch')} can't use this GPU with cuDNN ({error}); without it: GPU_CHECK=--no-cudnn"
    return ""


def _why(error: str) -> str:
    """What keeps a first kernel from running."""
    numpy, numba_cuda = _version("numpy"), _version("numba-cuda")
    if _numbers(numpy) >= (2, 5) and ("numpy" in error or "attribute" in error):
        return f"numba-cuda {numba_cuda} can't compile with NumPy {numpy} ({error}): {_older_numpy()}"
    if not any(word in error.lower() for word in ("driver", "no cuda", "device", "libcuda", "cuda_error")):
        return f"numba-cuda {numba_cuda} can't compile a kernel ({error}): pip install 'numba-cuda[cu13]>=0.30.4,<0.31'"
    return f"no kernel runs on this machine, which needs an NVIDIA GPU and its driver ({error}); nvidia-smi says what it has"


def _toolkit() -> str:
    """The folder of a CUDA toolkit that no variable names, for numba-cuda does not look there; "" for none."""
    if os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return ""
    nvcc = shutil.which("nvcc")
    places = [os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))] if nvcc else []
    return next((place for place in [*places, "/usr/local/cuda"] if os.path.isdir(os.path.join(place, "nvvm"))), "")


def _older_numpy() -> str:
    return "pip install 'numpy<2.5'"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _run(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "no answer within 120 s"
    return "" if done.returncode == 0 else last_words(done.stderr) or f"it ended with code {done.returncode}"


def last_words(said: str) -> str:
    """What a Python that failed said of its last exception, in a line."""
    lines = [line.strip() for line in said.strip().splitlines()]
    last = max((at for at, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception|Warning)\b", line)), default=-1)
    return " ".join(line for line in lines[last:] if line.strip(":- "))[:300]


def main(arguments: list[str]) -> None:
    """Say what is missing on the standard error, with status 2; where nothing is, this process becomes the command."""
    started = time.time()
    sentence = missing(dry="--dry-run" in arguments, cudnn="--no-cudnn" not in arguments)
    if sentence and not {"--help", "-h"} & set(arguments):
        print(f"gpu-check: {' '.join(sentence.split())}", file=sys.stderr)
        sys.exit(2)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tconv_bench.cli", "gpu-check", *arguments]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path, STARTED: str(started)})


if __name__ == "__main__":
    main(sys.argv[1:])
