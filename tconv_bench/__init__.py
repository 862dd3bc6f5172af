"""The laboratory of transposed convolution: every way to compute it as a Numba kernel, measured and explained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tconv_bench.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from tconv_bench.convolution_matrix import convolution_matrix
from tconv_bench.plan import Plan, plan
from tconv_bench.problem import Problem, output_shape
from tconv_bench.registry import methods

if TYPE_CHECKING:
    from tconv_bench import upsample
    from tconv_bench.gradients import Gradients, conv_transpose_grads

__version__ = "0.1.0"

__all__ = [
    "Gradients",
    "Plan",
    "Problem",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "conv_transpose_grads",
    "convolution_matrix",
    "methods",
    "output_shape",
    "plan",
    "upsample",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """``upsample`` and the gradients are imported where they are first used: 11 ms for the former."""
        if name == "upsample":
            return import_module("tconv_bench.upsample")
        if name in ("Gradients", "conv_transpose_grads"):
            return getattr(import_module("tconv_bench.gradients"), name)
        raise AttributeError(f"module 'tconv_bench' has no attribute {name!r}")
