"""What the variants share on CUDA: the contract on device arrays, and how a kernel finds the taps of an output pixel's phase.

Everywhere x, weight, bias and out are C-contiguous device arrays of the current context (``tconv_bench.gpu`` sees to that), and
what is launched is ordered by one stream. Per axis, the taps that reach output pixel ``stride*j + phase`` are ``first[phase]``
and every ``step``-th after it; the first one reads input pixel ``j + shift[phase]``, each next one ``back`` pixels before. So
they are visited without a division::

    step = stride / gcd(stride, dilation),  back = dilation / gcd(stride, dilation)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd, prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tconv_bench import jit_cuda, reference
from tconv_bench.jit_cuda import Kernel
from tconv_bench.problem import CUDA_DTYPES as DTYPES
from tconv_bench.problem import Problem
from tconv_bench.registry import Variant

CHUNK_BYTES = 256 * 2**20  # stretched images or columns held at once; those of one image where they alone are more
MOST_ELEMENTS = 2**31 - 1  # of an array: kernels divide 32-bit integers


class CudaVariant(Variant):
    """A variant on CUDA: ``prepare`` and ``run`` take a stream, 0 being the default one.

    Every method may be called again after it raised: what it allocated is freed with the last reference to it.
    """

    #: Whether sums are added in an order that may differ from run to run; "auto" takes none of these.
    depends_on_run = False
    #: All that it launches, in every form: what is to compile for a processor.
    kernels: ClassVar[tuple[Kernel, ...]]

    def supports(self, problem: Problem) -> Literal[True] | str:
        if problem.dtype not in DTYPES:
            return f"on CUDA {', '.join(DTYPES)} are served, and this problem is {problem.dtype}; use device='cpu'"
        largest = max(map(prod, (problem.x_shape, problem.weight_shape, problem.out_shape)))
        if largest > MOST_ELEMENTS:
            return f"an array would have {largest:,} elements, more than {MOST_ELEMENTS:,}; split the batch"
        return True

    def error_bound(
        self, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        if problem.dtype != "float16":
            return super().error_bound(problem, x, weight, bias)
        # Sums of float32, then one rounding: half of the last of 11 bits, or half of the least number that there is.
        wide = replace(problem, dtype="float32")
        sums = reference.error_bound(wide, x, weight, bias)
        exact = np.abs(reference.conv_transpose(wide, x, weight, bias))
        return np.asarray(sums + (exact + sums) * 2.0**-11 + 2.0**-25)

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        raise NotImplementedError

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        raise NotImplementedError

    def one_shot(self, problem: Problem, weight: Any, bias: Any, x: Any, out: Any, stream: Any = 0) -> None:
        self.run(self.prepare(problem, weight, bias, stream), x, out, stream)


def real(dtype: str) -> str:
    """The dtype of sums."""
    return jit_cuda.summed_in(dtype)


def real_bytes(problem: Problem) -> int:
    """Bytes of a sum."""
    return int(np.dtype(real(problem.dtype)).itemsize)


def products(problem: Problem) -> int:
    """Multiply-adds that are useful."""
    return problem.flops // 2


def depth(problem: Problem) -> int:
    """Multiply-adds of an output that has all of its phase's taps."""
    return int(problem.c_in // problem.groups * prod(-(-k // s) for k, s in zip(problem.kernel, problem.stride)))


def flat(array: Any) -> Any:
    """A device array with one axis."""
    return array.reshape(prod(array.shape))


def empty(size: int, dtype: str, stream: Any) -> Any:
    """Uninitialised device memory of one axis; of one element where it would be empty."""
    return jit_cuda.numba_cuda().device_array(max(1, size), dtype, stream=stream)


def on_device(array: NDArray[Any], stream: Any) -> Any:
    """A copy of an array of one axis; of one element where it would be empty."""
    content = np.ascontiguousarray(array) if array.size else np.zeros(1, array.dtype)
    return jit_cuda.numba_cuda().to_device(content, stream=stream)


def copied(array: Any, stream: Any) -> Any:
    """A copy of a device array, with one axis."""
    copy = empty(prod(array.shape), array.dtype, stream)
    copy.copy_to_device(flat(array), stream=stream)
    return copy


def bias_or_zeros(problem: Problem, bias: Any, stream: Any) -> Any:
    """A copy of the bias on the device, or zeros."""
    return on_device(np.zeros(problem.c_out, problem.dtype), stream) if bias is None else copied(bias, stream)


def chunks(problem: Problem, x: Any, out: Any, images: int) -> Iterator[tuple[int, Any, Any]]:
    """Parts of the batch: how many images (at most ``images``), and those of x and out with one axis."""
    x, out = flat(x), flat(out)
    x_image, out_image = prod(problem.x_shape[1:]), prod(problem.out_shape[1:])
    for first in range(0, problem.batch, images):
        last = min(first + images, problem.batch)
        yield last - first, x[first * x_image : last * x_image], out[first * out_image : last * out_image]


def phase_taps(problem: Problem) -> NDArray[np.int32]:
    """The module's table: step and back of z, y and x, then first tap and shift of every phase of z, of y and of x.

    A phase that no tap reaches has the kernel's size for its first tap.
    """
    g = problem.geometry
    axes = (g.kz, g.sz, g.pz, g.dz), (g.ky, g.sy, g.py, g.dy), (g.kx, g.sx, g.px, g.dx)
    head, table = [], []
    for k, s, p, d in axes:
        common = gcd(s, d)
        head += [s // common, d // common]
        for phase in range(s):
            first = next((tap for tap in range(min(k, s)) if (phase + p - tap * d) % s == 0), k)
            table += [first, (phase + p - first * d) // s]
    return np.array(head + table, np.int32)
