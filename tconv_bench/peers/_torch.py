"""What the peers of PyTorch share: a held call of ``torch.nn.functional.conv_transpose*d``, its memory order and its limits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tconv_bench.peers import Peer, engine
from tconv_bench.problem import Problem

CPU_BUILD = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


def functional(problem: Problem) -> Any:
    """PyTorch's function for the problem's number of axes."""
    return getattr(engine("torch.nn.functional"), f"conv_transpose{problem.ndim}d")


def arguments(problem: Problem) -> tuple[Any, ...]:
    """What follows the bias in that function: stride, padding, output_padding, groups, dilation."""
    padding = tuple(before for before, _ in problem.padding)
    return problem.stride, padding, problem.output_padding, problem.groups, problem.dilation


def inferring(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` under inference_mode, entered only where the caller has not: entering takes 2 us, looking 0.1."""
    torch = engine("torch")
    inside, enter = torch.is_inference_mode_enabled, torch.inference_mode

    def run() -> Any:
        if inside():
            return call()
        with enter():
            return call()

    return run


class TorchPeer(Peer):
    """PyTorch run eagerly."""

    install = CPU_BUILD if sys.platform == "linux" else Peer.install

    def supports(self, problem: Problem) -> Literal[True] | str:
        """PyTorch has one padding per axis, and channels-last memory in 2-D and 3-D only."""
        if self.layout == "channels-last" and problem.ndim == 1:
            return "PyTorch has channels-last memory for tensors of 4 and 5 axes only, and a 1-D problem's have 3; use 'torch'"
        uneven = next((pair for pair in problem.padding if pair[0] != pair[1]), None)
        if uneven is not None:
            return f"PyTorch pads both ends of an axis alike, but this problem pads one by {uneven[0]} and {uneven[1]}"
        return True

    def session(self) -> AbstractContextManager[Any]:
        """``torch.inference_mode()``."""
        mode: AbstractContextManager[Any] = engine("torch").inference_mode()
        return mode

    def use_threads(self) -> None:
        """Give PyTorch its threads, which are the whole process'."""
        torch = engine("torch")
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def tensor(self, array: NDArray[Any] | None, *, copied: bool = False) -> Any:
        """An inference tensor on the peer's device and in its layout; over the array's own memory where it can be."""
        if array is None:
            return None
        torch = engine("torch")
        with torch.inference_mode():
            tensor = torch.from_numpy(array)
            if copied:
                tensor = tensor.clone()
            return self.ordered(tensor).to(self.device)

    def ordered(self, tensor: Any) -> Any:
        """A tensor in the peer's layout."""
        if self.layout != "channels-last" or tensor.ndim < 4:
            return tensor
        torch = engine("torch")
        with torch.inference_mode():
            return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d)

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        """Tensors of weight and bias: eager PyTorch packs nothing before a call."""
        self.use_threads()
        return problem, self.tensor(weight, copied=True), self.tensor(bias, copied=True)

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        """The function on held tensors, under inference_mode."""
        self.use_threads()
        problem, weight, bias = state
        return inferring(partial(functional(problem), self.tensor(x), weight, bias, *arguments(problem)))

    def one_shot(self, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> Callable[[], Any]:
        """The same call, on the caller's own weights where the layout allows."""
        return self.bind((problem, self.tensor(weight), self.tensor(bias)), x, x)

    def result(self, value: Any, out: NDArray[Any] | None) -> NDArray[Any]:
        """The returned tensor's values."""
        return np.ascontiguousarray(value.cpu().numpy())
