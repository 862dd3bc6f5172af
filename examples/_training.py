"""What the examples train with: two layers whose gradients are this project's own, and Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import conv2d, conv_transpose2d, conv_transpose_grads

Array = NDArray[np.float32]


class ConvTranspose:
    """A transposed convolution that learns: ``weight`` (C_in, C_out, KH, KW), ``bias`` (C_out,), and their gradients.

    ``sizes`` are those of ``conv_transpose2d``: stride, padding, output_padding, groups, dilation.
    """

    def __init__(self, weight: Array, bias: Array | None = None, **sizes: Any):
        self.parameters = [weight] if bias is None else [weight, bias]
        self.gradients: list[Array] = []
        self.sizes = sizes

    def __call__(self, x: Array) -> Array:
        """The layer's output; ``x`` (N, C_in, H, W) is kept for ``backward``."""
        self.x = x
        return conv_transpose2d(x, *self.parameters, **self.sizes)

    def backward(self, grad: Array) -> Array:
        """The loss' gradient by the input, from that by the output; those by the parameters are kept in ``gradients``."""
        grad_x, *of_parameters = conv_transpose_grads(grad, self.x, self.parameters[0], **self.sizes)
        self.gradients = of_parameters[: len(self.parameters)]
        return grad_x


class Conv:
    """An ordinary convolution that learns: ``weight`` (C_out, C_in, KH, KW), ``bias`` (C_out,), and their gradients.

    It is the transpose of the transposed convolution with the same weights. So the loss' gradient by its input is that
    transposed convolution of ``grad``, and the one by the weights is that of <x, conv_transpose(grad, weight)>.
    """

    def __init__(self, weight: Array, bias: Array, stride: int = 1, padding: int = 0):
        self.parameters, self.gradients = [weight, bias], list[Array]()
        self.stride, self.padding = stride, padding

    def __call__(self, x: Array) -> Array:
        """The layer's output; ``x`` (N, C_in, H, W) is kept for ``backward``."""
        self.x = x
        return conv2d(x, *self.parameters, self.stride, self.padding)

    def backward(self, grad: Array) -> Array:
        """As in ``ConvTranspose``."""
        weight = self.parameters[0]
        unread = [(size + 2 * self.padding - k) % self.stride for size, k in zip(self.x.shape[2:], weight.shape[2:])]
        sizes: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "output_padding": unread}
        self.gradients = [conv_transpose_grads(self.x, grad, weight, **sizes)[1], grad.sum(axis=(0, 2, 3))]
        return conv_transpose2d(grad, weight, **sizes)


class Adam:
    """Adam over ``steps`` steps; the rate rises during the first tenth of them and then falls to zero as a cosine.

    Source: Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, with its betas and epsilon.
    """

    def __init__(self, layers: Sequence[ConvTranspose | Conv], rate: float, steps: int):
        self.layers, self.rate, self.steps, self.step = layers, rate, steps, 0
        self.means = [[np.zeros_like(p) for p in layer.parameters] for layer in layers]
        self.squares = [[np.zeros_like(p) for p in layer.parameters] for layer in layers]

    def update(self) -> None:
        """Move the parameters by their gradients, in place."""
        rate = self.rate * 0.5 * (1 + np.cos(np.pi * self.step / self.steps))
        self.step += 1
        rate *= min(1.0, 10 * self.step / self.steps)
        rate *= np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        for layer, means, squares in zip(self.layers, self.means, self.squares):
            for parameter, gradient, mean, square in zip(layer.parameters, layer.gradients, means, squares):
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                parameter -= np.float32(rate) * mean / (np.sqrt(square) + 1e-8)


def normal(rng: np.random.Generator, shape: Sequence[int], deviation: float) -> Array:
    """Random weights, float32."""
    return (deviation * rng.standard_normal(tuple(shape))).astype(np.float32)


def bilinear(stride: int) -> Array:
    """The kernel (2*stride, 2*stride) whose transposed convolution with padding stride // 2 is bilinear interpolation;
    ``stride`` is even.

    Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015, section 3.3; the
    formula is ``upsample_filt`` of their code.

    >>> bilinear(2)[0]
    array([0.0625, 0.1875, 0.1875, 0.0625], dtype=float32)
    """
    line = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
    return np.outer(line, line).astype(np.float32)
