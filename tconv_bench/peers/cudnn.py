"""PyTorch on a CUDA device: cuDNN's backward-data convolution, in both memory orders, in float32 and in TF32.

Input and weights are on the device; a call ends when the device has finished. ``cudnn.benchmark`` is on: cuDNN tries its
algorithms in the first call on a shape, which ``prepare`` makes, and keeps the fastest. By default PyTorch lets cuDNN round
float32 to TF32 (10 bits of mantissa), so both are peers; the error of TF32 is beyond what float32 rounding explains.

Source: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", arXiv:1410.0759.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tconv_bench.peers import Peer, engine, peer
from tconv_bench.peers._torch import TorchPeer, arguments, functional, inferring
from tconv_bench.problem import Problem


@peer(
    "cudnn",
    title="cuDNN via PyTorch",
    source="Chetlur et al. 2014",
    color="#1B7837",
    marker=".",
    packages=("torch",),
    device="cuda",
    modes=("one-shot", "planned"),
    output="fresh",
)
class Cudnn(TorchPeer):
    """``torch.nn.functional.conv_transpose*d`` on CUDA tensors, in float32."""

    install = "pip install torch"
    precision: ClassVar[str] = "ieee"
    _active: ClassVar[Peer | None] = None

    def available(self) -> Literal[True] | str:
        """PyTorch must see a device: it is imported to ask it."""
        answer = super().available()
        if answer is not True:
            return answer
        torch = engine("torch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old driver is warned about; the answer says enough
            seen = torch.cuda.is_available() and torch.backends.cudnn.is_available()
        return True if seen else f"torch {torch.__version__} finds no CUDA device that it can use with cuDNN"

    def versions(self) -> dict[str, str]:
        """Also CUDA's and cuDNN's, where PyTorch was built with them."""
        found = super().versions()
        if self.available() is True:
            torch = engine("torch")
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        return found

    def supports(self, problem: Problem) -> Literal[True] | str:
        """Floats; TF32 is a mode of float32."""
        if problem.dtype == "int64":
            return "cuDNN computes floats only, and this problem is int64"
        if self.precision == "tf32" and problem.dtype != "float32":
            return f"TF32 is a mode of float32, and this problem is {problem.dtype}; use '{self.name.removesuffix('-tf32')}'"
        return super().supports(problem)

    def use_threads(self) -> None:
        """The device has its own."""

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        """Weight and bias on the device, and a first call on zeros, in which cuDNN picks its algorithm."""
        state = super().prepare(problem, weight, bias)
        zeros = np.zeros(problem.x_shape, problem.dtype)
        self.bind(state, zeros, zeros)()
        return state

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        """The call on held tensors, until the device has finished."""
        problem, weight, bias = state
        call = self._activated(partial(functional(problem), self.tensor(x), weight, bias, *arguments(problem)))
        synchronize = engine("torch").cuda.synchronize

        def run() -> Any:
            value = call()
            synchronize()
            return value

        return inferring(run)

    def queued(self, problem: Problem, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        """The call on device arrays that speak ``__cuda_array_interface__``, which waits for nothing.

        It reads their own memory, in the layout channels-last a copy of x and weight.
        """
        x, weight = (self.ordered(self._shared(array)) for array in (x, weight))
        bias = None if bias is None else self._shared(bias)
        return inferring(self._activated(partial(functional(problem), x, weight, bias, *arguments(problem))))

    def _shared(self, array: Any) -> Any:
        torch = engine("torch")
        with torch.inference_mode():
            return torch.as_tensor(array, device=self.device)

    def _activated(self, call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            if Cudnn._active is not self:
                self._activate()
            return call()

        return run

    def _activate(self) -> None:
        """Precision and search are the whole process': set where another peer of the device called last."""
        cudnn = engine("torch").backends.cudnn
        cudnn.benchmark = True
        if hasattr(cudnn, "conv"):  # since PyTorch 2.9
            cudnn.conv.fp32_precision = self.precision
        else:
            cudnn.allow_tf32 = self.precision == "tf32"
        Cudnn._active = self


@peer(
    "cudnn-channels_last",
    title="cuDNN, channels last",
    source="Chetlur et al. 2014",
    color="#762A83",
    marker="d",
    packages=("torch",),
    device="cuda",
    modes=("one-shot", "planned"),
    layout="channels-last",
    output="fresh",
)
class CudnnChannelsLast(Cudnn):
    """The same on tensors in channels-last memory."""


@peer(
    "cudnn-tf32",
    title="cuDNN, TF32",
    source="Chetlur et al. 2014",
    color="#994455",
    marker="H",
    packages=("torch",),
    device="cuda",
    modes=("one-shot", "planned"),
    output="fresh",
)
class CudnnTf32(Cudnn):
    """Float32 rounded to TF32 before it is multiplied."""

    precision = "tf32"


@peer(
    "cudnn-channels_last-tf32",
    title="cuDNN, channels last, TF32",
    source="Chetlur et al. 2014",
    color="#999933",
    marker="8",
    packages=("torch",),
    device="cuda",
    modes=("one-shot", "planned"),
    layout="channels-last",
    output="fresh",
)
class CudnnChannelsLastTf32(Cudnn):
    """TF32 on tensors in channels-last memory."""

    precision = "tf32"
