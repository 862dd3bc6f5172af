"""One transposed convolution, validated once: sizes, arithmetic, and a one-line text form.

Output size per axis (Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, relation 14,
with dilation and a pair of paddings)::

    out = (in - 1)*stride - pad_before - pad_after + dilation*(kernel - 1) + output_padding + 1

Input pixel ``i`` and tap ``k`` meet output pixel ``i*stride + k*dilation - pad_before``.

>>> str(Problem(1, 512, (4, 4), 256, 4, stride=2, padding=1))
'n1_ci512_i4x4_co256_k4x4_s2x2_p1x1'
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

#: What kernels compute in. Other integers are computed in int64: wrapping there and narrowing later is exact modulo 2^n.
DTYPES = ("float32", "float64", "int64")
CUDA_DTYPES = ("float16", "float32", "float64")  # float16 is summed in float32 there; CPUs' kernels have none
ALL_DTYPES = (*DTYPES, "float16")
ARRAY_DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_LARGEST = np.iinfo(np.intp).max


def as_int(value: Any, name: str, least: int) -> int:
    """``value`` as an exact int >= ``least``; TypeError for what is no integer, ValueError below the bound."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, but must be an integer >= {least}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), but must be an integer >= {least}") from None
    if number < least:
        raise ValueError(f"{name} is {number}, but must be >= {least}")
    return number


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def per_axis(value: Any, ndim: int, name: str, least: int) -> tuple[int, ...]:
    """One integer per spatial axis; a lone integer stands for all axes."""
    if not _is_sequence(value):
        return (as_int(value, name, least),) * ndim
    if len(value) != ndim:
        raise ValueError(
            f"{name} is {tuple(value)!r}: {len(value)} values, but allowed are one integer or {ndim}, one per axis"
        )
    return tuple(as_int(item, name, least) for item in value)


def padding_pairs(value: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    """(before, after) per spatial axis from an integer, one integer per axis, or one pair per axis."""
    allowed = f"allowed are one integer or a sequence of {ndim}, each an integer or a (before, after) pair"
    if not _is_sequence(value):
        return ((as_int(value, "padding", 0),) * 2,) * ndim
    if len(value) != ndim:
        raise ValueError(f"padding is {value!r}: {len(value)} entries, but {allowed}")
    pairs = []
    for item in value:
        pair = tuple(item) if _is_sequence(item) else (item, item)
        if len(pair) != 2:
            raise ValueError(f"padding is {value!r}: an entry has {len(pair)} values, but {allowed}")
        pairs.append((as_int(pair[0], "padding", 0), as_int(pair[1], "padding", 0)))
    return tuple(pairs)


def output_size(in_size: int, kernel: int, stride: int, padding: tuple[int, int], output_padding: int, dilation: int) -> int:
    """The module's formula for one axis, on exact Python integers; may be <= 0."""
    return (in_size - 1) * stride - sum(padding) + dilation * (kernel - 1) + output_padding + 1


def check_output_padding(output_padding: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> None:
    """ValueError unless each output_padding is below stride or dilation (more would only append untouched zeros)."""
    for extra, s, d in zip(output_padding, stride, dilation):
        if extra >= max(s, d):
            raise ValueError(
                f"output_padding is {extra}, but must be smaller than the stride ({s}) or the dilation ({d}) of its axis"
            )


def output_shape(
    in_size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, dilation: Any = 1
) -> Any:
    """Spatial output size of a transposed convolution, exact for integers of any size.

    Args:
        in_size: pixels per axis, an integer (one axis, gives an integer) or a sequence (gives a tuple).
        kernel, stride, output_padding, dilation: an integer for all axes, or one per axis.
        padding: an integer, one per axis, or one (before, after) pair per axis.

    Raises:
        ValueError: a size, kernel, stride or dilation below 1, a negative padding, output_padding not below stride or
            dilation, or an output without a pixel.
        TypeError: a value that is no integer.

    Source: Dumoulin & Visin, arXiv:1603.07285, section 4.

    >>> output_shape(4, 3), output_shape((4, 5), 3, stride=2, padding=1, output_padding=1)
    (6, (8, 10))
    """
    scalar = not _is_sequence(in_size)
    ndim = 1 if scalar else len(in_size)
    sizes = per_axis(in_size, ndim, "in_size", 1)
    steps, dilations = per_axis(stride, ndim, "stride", 1), per_axis(dilation, ndim, "dilation", 1)
    extra = per_axis(output_padding, ndim, "output_padding", 0)
    check_output_padding(extra, steps, dilations)
    out = tuple(
        map(output_size, sizes, per_axis(kernel, ndim, "kernel", 1), steps, padding_pairs(padding, ndim), extra, dilations)
    )
    check_not_empty(out)
    return out[0] if scalar else out


def check_not_empty(out: tuple[int, ...]) -> None:
    """ValueError when an output axis has no pixel."""
    if min(out) < 1:
        raise ValueError(f"the output would be empty: its spatial size is {out}; use less padding or a larger input or kernel")


class Geometry(NamedTuple):
    """A Problem's sizes for kernels: always three spatial axes (z, y, x), missing ones of size 1 in front."""

    n: int
    c_in: int
    c_out: int
    groups: int
    iz: int
    iy: int
    ix: int
    kz: int
    ky: int
    kx: int
    sz: int
    sy: int
    sx: int
    pz: int
    py: int
    px: int
    dz: int
    dy: int
    dx: int
    oz: int
    oy: int
    ox: int


_FORM = re.compile(r"^(n|ci|co|i|k|s|p|op|g|d)(\d.*)$")
_TOKENS = {
    "n": "batch", "ci": "c_in", "i": "in_size", "co": "c_out", "k": "kernel", "s": "stride", "p": "padding",
    "op": "output_padding", "g": "groups", "d": "dilation",
}  # fmt: skip


def kernel_dtype(dtype: Any) -> str:
    """The member of ``ALL_DTYPES`` that an array of a dtype is computed in."""
    name = np.dtype(dtype).name
    return name if name in ALL_DTYPES else "int64"


@dataclass(frozen=True)
class Problem:
    """A transposed convolution's shape: x ``(batch, c_in, *in_size)``, weight ``(c_in, c_out // groups, *kernel)``.

    Integers stand for all axes; ``padding`` is kept as one (before, after) pair per axis. Construction raises ValueError
    or TypeError naming the value and what is allowed.
    """

    batch: int
    c_in: int
    in_size: tuple[int, ...]
    c_out: int
    kernel: Any
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    groups: int = 1
    dilation: Any = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not _is_sequence(self.in_size) or not 1 <= len(self.in_size) <= 3:
            raise ValueError(f"in_size is {self.in_size!r}, but must hold 1, 2 or 3 spatial sizes")
        ndim = len(self.in_size)
        normal: dict[str, Any] = {
            "batch": as_int(self.batch, "batch", 0),
            "c_in": as_int(self.c_in, "c_in", 1),
            "in_size": per_axis(self.in_size, ndim, "in_size", 1),
            "c_out": as_int(self.c_out, "c_out", 1),
            "kernel": per_axis(self.kernel, ndim, "kernel", 1),
            "stride": per_axis(self.stride, ndim, "stride", 1),
            "padding": padding_pairs(self.padding, ndim),
            "output_padding": per_axis(self.output_padding, ndim, "output_padding", 0),
            "groups": as_int(self.groups, "groups", 1),
            "dilation": per_axis(self.dilation, ndim, "dilation", 1),
            "dtype": str(self.dtype) if self.dtype in ALL_DTYPES else np.dtype(self.dtype).name,
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.dtype not in ALL_DTYPES:
            raise TypeError(f"dtype is {self.dtype}, but must be one of {', '.join(ALL_DTYPES)}")
        for name in ("c_in", "c_out"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"groups is {self.groups}, but must divide {name}, which is {getattr(self, name)}")
        check_output_padding(self.output_padding, self.stride, self.dilation)
        check_not_empty(self.out_size)
        for name, shape in (("input", self.x_shape), ("weight", self.weight_shape), ("output", self.out_shape)):
            if prod(shape) * self.itemsize > _LARGEST:
                raise ValueError(f"the {name} would have shape {shape}: more bytes than this machine can address ({_LARGEST})")

        object.__setattr__(self, "_hash", hash(tuple(getattr(self, field.name) for field in fields(self))))

    def __hash__(self) -> int:
        known: int = self.__dict__["_hash"]  # 0.1 us instead of 2 in every cache that a call passes
        return known

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 1 to 3."""
        return len(self.in_size)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(np.dtype(self.dtype).itemsize)

    @cached_property
    def out_size(self) -> tuple[int, ...]:
        """Spatial output size, by the module's formula."""
        return tuple(map(output_size, self.in_size, self.kernel, self.stride, self.padding, self.output_padding, self.dilation))

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the input."""
        return (self.batch, self.c_in, *self.in_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.c_in, self.c_out // self.groups, *self.kernel)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.batch, self.c_out, *self.out_size)

    @property
    def taps(self) -> int:
        """Positions of the kernel, the product of its sizes."""
        return prod(self.kernel)

    @property
    def in_pixels(self) -> int:
        """Input pixels of one image and channel."""
        return prod(self.in_size)

    @property
    def out_pixels(self) -> int:
        """Output pixels of one image and channel."""
        return prod(self.out_size)

    @cached_property
    def meetings(self) -> int:
        """(input pixel, tap) pairs of one image and channel pair whose output pixel exists; the rest is cropped away."""
        return prod(map(_axis_meetings, self.in_size, self.kernel, self.stride, self.padding, self.dilation, self.out_size))

    @property
    def flops(self) -> int:
        """One multiplication and one addition per useful product, ``2 * batch * c_in * (c_out / groups) * meetings``."""
        return 2 * self.batch * self.c_in * (self.c_out // self.groups) * self.meetings

    @property
    def min_bytes(self) -> int:
        """The least bytes that any method must move, which are those of input, weight and output, each once."""
        return self.itemsize * (prod(self.x_shape) + prod(self.weight_shape) + prod(self.out_shape))

    @cached_property
    def geometry(self) -> Geometry:
        """The sizes for kernels, padded to three spatial axes."""
        before = [pair[0] for pair in self.padding]
        ones, zeros = (1,) * (3 - self.ndim), (0,) * (3 - self.ndim)
        return Geometry(
            self.batch, self.c_in, self.c_out, self.groups,
            *ones, *self.in_size, *ones, *self.kernel, *ones, *self.stride, *zeros, *before, *ones, *self.dilation,
            *ones, *self.out_size,
        )  # fmt: skip

    def __str__(self) -> str:
        """One line that ``Problem.parse`` reads back; values at their default are left out."""
        text = f"n{self.batch}_ci{self.c_in}_i{_join(self.in_size)}_co{self.c_out}_k{_join(self.kernel)}"
        if set(self.stride) != {1}:
            text += f"_s{_join(self.stride)}"
        if set(self.padding) != {(0, 0)}:
            text += "_p" + "x".join(str(b) if b == a else f"{b}:{a}" for b, a in self.padding)
        if set(self.output_padding) != {0}:
            text += f"_op{_join(self.output_padding)}"
        if self.groups != 1:
            text += f"_g{self.groups}"
        if set(self.dilation) != {1}:
            text += f"_d{_join(self.dilation)}"
        return text + (f"_{self.dtype}" if self.dtype != "float32" else "")

    @classmethod
    def parse(cls, text: str) -> Problem:
        """The Problem of one line of ``text`` such as ``n1_ci512_i4x4_co256_k4x4_s2x2_p1x1_float64``.

        Tokens, in any order, joined by ``_``: n batch, ci and co channels, i input size, k kernel, s stride, p padding (``1``
        or ``before:after`` per axis), op output padding, g groups, d dilation, and a dtype. n defaults to 1, the rest as in
        ``Problem``. One number stands for all axes. Raises ValueError naming the token at fault.
        """
        values: dict[str, Any] = {"batch": 1}
        for token in text.strip().split("_"):
            match = _FORM.match(token)
            name, raw = (_TOKENS[match[1]], match[2]) if match else ("dtype", token)
            if name == "dtype" and token not in ALL_DTYPES:
                raise ValueError(
                    f"problem {text!r}: unknown token {token!r}; allowed are a dtype ({', '.join(ALL_DTYPES)}) or one of "
                    f"{', '.join(_TOKENS)} followed by numbers, as in n1_ci512_i4x4_co256_k4x4_s2x2_p1x1"
                )
            if name in values and not (name == "batch" and values[name] == 1):
                raise ValueError(f"problem {text!r}: {token!r} gives {name} a second time")
            values[name] = raw if name == "dtype" else _parse_sizes(text, token, name, raw)
        missing = [field.name for field in fields(cls)[:5] if field.name not in values]
        if missing:
            keys = {name: key for key, name in _TOKENS.items()}
            raise ValueError(f"problem {text!r}: missing {', '.join(f'{name} ({keys[name]}...)' for name in missing)}")
        return cls(**values)


def _join(values: Iterable[int]) -> str:
    return "x".join(map(str, values))


def _parse_sizes(text: str, token: str, name: str, raw: str) -> Any:
    pattern = r"\d+(:\d+)?(x\d+(:\d+)?)*" if name == "padding" else r"\d+(x\d+)*"
    if not re.fullmatch(pattern, raw):
        raise ValueError(f"problem {text!r}: {token!r} is not of the form {token[: len(token) - len(raw)]}4 or ...4x4")
    parts = [tuple(map(int, part.split(":"))) if ":" in part else int(part) for part in raw.split("x")]
    if name == "in_size":
        return tuple(parts)
    if name in ("batch", "c_in", "c_out", "groups") or (len(parts) == 1 and not isinstance(parts[0], tuple)):
        if len(parts) != 1:
            raise ValueError(f"problem {text!r}: {token!r} must hold one number")
        return parts[0]
    return tuple(parts)


def _axis_meetings(in_size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int, out: int) -> int:
    total = 0
    for k in range(kernel):
        shift = k * dilation - padding[0]
        first = max(0, -(shift // stride))
        last = min(in_size - 1, (out - 1 - shift) // stride)
        total += max(0, last - first + 1)
    return total
