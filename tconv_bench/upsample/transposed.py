"""Transposed convolution as an up-sampling operator: by a scale, to exactly so many times the size.

``out = conv_transpose(x, weight, stride=scale) + bias``, cropped at both ends of each axis to ``scale`` times its size: of the
``dilation*(kernel - 1) + 1 - scale`` pixels that are too many, the smaller half comes off the end, as the usual arguments of
generators do it (kernel 4, stride 2, padding 1; kernel 3, stride 2, padding 1, output_padding 1). Where the kernel is smaller
than the scale there are none too many, and what no product reaches at the end is the bias.

Source: Radford, Metz & Chintala, "Unsupervised representation learning with DCGANs", arXiv:1511.06434.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from tconv_bench.conv import AUTO, checked_array, conv_transpose1d, conv_transpose2d, conv_transpose3d
from tconv_bench.problem import per_axis

_TRANSPOSED = (conv_transpose1d, conv_transpose2d, conv_transpose3d)


def conv_transpose(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    scale: Any = 2,
    *,
    dilation: Any = 1,
    groups: int = 1,
    method: str = AUTO,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Up-sampling with learnable weights: a transposed convolution whose result is ``scale`` times as large as x.

    Args:
        x: ``(N, C_in, *spatial)`` or ``(C_in, *spatial)`` with 1 to 3 spatial axes; float32, float64 or an integer dtype.
        weight: ``(C_in, C_out // groups, *kernel)``, of x's dtype; as many kernel axes as x has spatial ones.
        bias: ``(C_out,)``, of x's dtype, or None.
        scale: an integer >= 1, or one per spatial axis: the stride.
        dilation: pixels between neighbouring taps, an integer or one per axis, >= 1.
        groups: blocks of channels that do not mix.
        method: a name of ``methods()``, or "auto".
        out: array of the result's shape and x's dtype to write into; must not overlap the inputs.

    Returns:
        ``(N, C_out, ...)``, or without N, the spatial axes scaled, in x's dtype.

    Raises:
        ValueError, TypeError, NotImplementedError: as ``conv_transpose2d``.

    Source: ``tconv_bench.conv_transpose2d``, which takes stride and padding.

    >>> conv_transpose([[[1, 2], [3, 4]]], [[[[5, 5], [5, 5]]]])
    array([[[ 5,  5, 10, 10],
            [ 5,  5, 10, 10],
            [15, 15, 20, 20],
            [15, 15, 20, 20]]])
    """
    weights = checked_array(weight, "weight")
    ndim = weights.ndim - 2
    if not 1 <= ndim <= 3:
        raise ValueError(f"weight has {weights.ndim} axes (shape {weights.shape}), but must have 3 to 5: 1 to 3 of the kernel")
    steps, dilations = per_axis(scale, ndim, "scale", 1), per_axis(dilation, ndim, "dilation", 1)
    more = [d * (k - 1) + 1 - s for d, k, s in zip(dilations, weights.shape[2:], steps)]
    crop = tuple((total - total // 2, total // 2) if total > 0 else (0, 0) for total in more)
    missing = tuple(max(0, -total) for total in more)
    transposed = _TRANSPOSED[ndim - 1]
    return transposed(x, weights, bias, steps, crop, missing, groups, dilations, method=method, out=out)
