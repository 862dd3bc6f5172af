"""The laboratory of transposed convolution: every way to compute it as a Numba kernel, measured and explained."""

from tconv_bench.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from tconv_bench.convolution_matrix import convolution_matrix
from tconv_bench.plan import Plan, plan
from tconv_bench.problem import Problem, output_shape
from tconv_bench.registry import methods

__version__ = "0.1.0"

__all__ = [
    "Plan",
    "Problem",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution_matrix",
    "methods",
    "output_shape",
    "plan",
]
