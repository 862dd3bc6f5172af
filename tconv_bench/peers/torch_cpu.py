"""PyTorch on the CPU: eager in both memory orders, and compiled with the weights packed.

Eager float32 calls go to oneDNN, unless they are small or output_padding reaches the stride; the others are a GEMM and col2im.
``torch.compile`` with inductor's ``freezing`` makes the weights constants and packs them for oneDNN: its code calls
``torch.ops.mkldnn._convolution_transpose_pointwise`` for 2-D and 3-D problems of one group, or several input channels in each,
and output_padding below the stride. It calls the eager function for the others. Inputs and outputs stay channels-first.

Source: Paszke et al., "PyTorch", NeurIPS 2019; Ansel et al., "PyTorch 2", ASPLOS 2024.
"""

from __future__ import annotations

import operator
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tconv_bench.peers import engine, peer
from tconv_bench.peers._torch import TorchPeer, arguments, inferring
from tconv_bench.problem import Problem


@peer(
    "torch",
    title="PyTorch eager",
    source="Paszke et al. 2019; oneDNN",
    color="#661100",
    marker="P",
    packages=("torch",),
    modes=("one-shot", "planned"),
    output="fresh",
)
class Eager(TorchPeer):
    """``torch.nn.functional.conv_transpose*d``."""


@peer(
    "torch-channels_last",
    title="PyTorch eager, channels last",
    source="Paszke et al. 2019; oneDNN",
    color="#EECC66",
    marker="X",
    packages=("torch",),
    modes=("one-shot", "planned"),
    layout="channels-last",
    output="fresh",
)
class EagerChannelsLast(TorchPeer):
    """The same on tensors in channels-last memory. What oneDNN does not take in 3-D comes back channels-first all the same."""


@peer(
    "torch-compiled",
    title="PyTorch compiled, frozen",
    source="Ansel et al. 2024; oneDNN",
    color="#555555",
    marker="h",
    packages=("torch",),
    output="fresh",
)
class Compiled(TorchPeer):
    """``torch.compile`` of a module in eval(), its weights frozen."""

    def available(self) -> Literal[True] | str:
        """Inductor also needs a C++ compiler, and Python's headers."""
        answer = super().available()
        if answer is not True:
            return answer
        compiler = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
        if shutil.which(compiler) is None:
            return f"torch.compile needs a C++ compiler, and {compiler!r} is not found: install one or name it in CXX"
        headers = sysconfig.get_path("include")
        if not (Path(headers) / "Python.h").is_file():
            return f"torch.compile needs Python's C headers, and {headers} has no Python.h: install python3-dev"
        return True

    def supports(self, problem: Problem) -> Literal[True] | str:
        """Weights that inductor packs must be float32: it tries the others too, and fails to compile."""
        if problem.dtype != "float32" and _is_packed(problem):
            return f"PyTorch's compiler packs weights of float32 for oneDNN and fails on {problem.dtype}; use 'torch'"
        return super().supports(problem)

    def set_threads(self, threads: int) -> None:
        """Also imports the compiler."""
        super().set_threads(threads)
        with _quiet():
            engine("torch._inductor.compile_fx")

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        """Compile for this shape, and run once on zeros: that is when PyTorch compiles."""
        self.use_threads()
        torch = engine("torch")
        forward = _with_own_code(_module(problem, weight, bias))
        # compile_threads=1: no pool of processes is left behind.
        config = engine("torch._inductor.config")
        with _quiet(), config.patch(freezing=True, compile_threads=1), torch.inference_mode():
            compiled = torch.compile(forward, fullgraph=True, dynamic=False)
            compiled(self.tensor(np.zeros(problem.x_shape, problem.dtype)))
        return compiled

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        """The compiled function on a held tensor, under inference_mode."""
        self.use_threads()
        tensor = self.tensor(x)
        return inferring(lambda: state(tensor))

    def one_shot(self, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> Callable[[], Any]:
        """Nobody compiles for one call."""
        raise NotImplementedError("torch-compiled takes weights only when it compiles; use 'torch'")


def _is_packed(problem: Problem) -> bool:
    depthwise = problem.groups > 1 and problem.groups == problem.c_in
    return problem.ndim > 1 and not depthwise and all(map(operator.lt, problem.output_padding, problem.stride))


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's compiler warns of deprecated parts of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _module(problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
    torch = engine("torch")
    stride, padding, output_padding, groups, dilation = arguments(problem)
    kind = getattr(torch.nn, f"ConvTranspose{problem.ndim}d")
    module = kind(
        problem.c_in, problem.c_out, problem.kernel, stride, padding, output_padding, groups, bias is not None, dilation,
        device="meta",
    )  # fmt: skip
    module.weight = torch.nn.Parameter(torch.tensor(weight), requires_grad=False)
    if bias is not None:
        module.bias = torch.nn.Parameter(torch.tensor(bias), requires_grad=False)
    return module.eval()


def _with_own_code(module: Any) -> Any:
    """A function that calls the module and shares its code object with no other.

    PyTorch keeps what it compiled by code object, tries those guards one after the other in each call, and after 8 gives up.
    """

    def forward(x: Any) -> Any:
        return module(x)

    return FunctionType(forward.__code__.replace(), forward.__globals__, "forward", None, forward.__closure__)
