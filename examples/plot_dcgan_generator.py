"""
A DCGAN generator, layer by layer
=================================

The generator of DCGAN turns 100 random numbers into an image of 64 x 64 pixels, and all that it is made of are transposed
convolutions: the first projects the noise to 1024 channels of 4 x 4 pixels, each of the other four doubles the size and, but
for the last, halves the channels. Here its forward pass runs step by step, with what every layer costs in time and memory.

The weights are random, as they are before training, and so the images are noise. But the noise has a grain, which comes from
the kernels' shape alone: the last picture shows the same generator with smooth kernels beside it.

Source: Radford, Metz & Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
networks", ICLR 2016, figure 1 and section 4.
"""

# %%
# The layers: (channels in, channels out, kernel, sizes of ``conv_transpose2d``). The first one is the "project and reshape" of
# the paper, which is a transposed convolution of a single pixel.

import statistics
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from _script import arguments, console, save
from rich import box
from rich.table import Table

from tconv_bench import conv_transpose2d, measure, plan, registry, units
from tconv_bench.plots import style

QUICK, FIGURE = arguments(__file__)
BATCH, WIDTH, BUDGET = (2, 8, 0.02) if QUICK else (16, 1, 0.8)  # images; what the channels are divided by; seconds of samples

CHANNELS = [100, *(c // WIDTH for c in (1024, 512, 256, 128)), 3]
DOUBLE = {"stride": 2, "padding": 2, "output_padding": 1}
SHAPES = [(c_in, c_out, 4 if c_in == 100 else 5) for c_in, c_out in pairwise(CHANNELS)]
SIZES = [{}, DOUBLE, DOUBLE, DOUBLE, DOUBLE]
NAMES = ["project", "up 1", "up 2", "up 3", "up 4"]

# %%
# Weights are drawn from N(0, 0.02), as in the paper. After each layer but the last comes a batch normalisation. Once the
# network is trained it is a scale and a shift per channel, which fold into the layer's weights and bias and cost nothing:
#
# .. math:: \gamma \frac{T(x, w) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = T(x, s w) + (\beta - s \mu),
#           \qquad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
#
# Mean and variance are taken here from one batch of noise, with gamma = 1 and beta = 0. The last layer has no normalisation,
# but one scale for all channels, so that the contrast can be seen.

rng = np.random.default_rng(2016)


def folded(raw, x):
    """Weights and biases with the normalisation folded in, and how far the result is from the unfolded one."""
    weights, biases, error = [], [], 0.0
    for weight, sizes in zip(raw, SIZES):
        y = conv_transpose2d(x, weight, **sizes)
        mean, deviation = y.mean(axis=(0, 2, 3)), np.sqrt(y.var(axis=(0, 2, 3)) + 1e-5)
        if weight is raw[-1]:
            mean, deviation = np.zeros_like(mean), np.full_like(deviation, 2 * y.std())
        weights.append(weight / deviation[:, None, None])
        biases.append(-mean / deviation)
        apart = (y - mean[:, None, None]) / deviation[:, None, None]
        y = conv_transpose2d(x, weights[-1], biases[-1], **sizes)
        error = max(error, float(np.abs(y - apart).max()))
        x = np.maximum(y, 0)
    return weights, biases, error


calibration = rng.standard_normal((32, 100, 1, 1), dtype=np.float32)
random_weights = [0.02 * rng.standard_normal((c_in, c_out, k, k), dtype=np.float32) for c_in, c_out, k in SHAPES]
weights, biases, folded_error = folded(random_weights, calibration)
console.print(f"folded and unfolded batch normalisation differ by {folded_error:.1e} at most")

# %%
# A forward pass, the plain way. Each call is given the weights as they are and makes what it needs of them.


def activate(name, y):
    """ReLU, after the last layer tanh; in place."""
    return np.tanh(y, out=y) if name == NAMES[-1] else np.maximum(y, 0, out=y)


def forward(x, weights, biases):
    """The outputs of every layer."""
    outputs = []
    for name, weight, bias, sizes in zip(NAMES, weights, biases, SIZES):
        x = activate(name, conv_transpose2d(x, weight, bias, **sizes))
        outputs.append(x)
    return outputs


noise = rng.standard_normal((BATCH, 100, 1, 1), dtype=np.float32)
activations = [noise, *forward(noise, weights, biases)]
images = activations[-1]

# %%
# Neighbouring pixels of the images have nothing in common, since the taps of a random kernel have nothing in common. If each
# pair of channels has one random number times the kernel (1 4 6 4 1) x (1 4 6 4 1) / 64, whose taps add up to the same in every
# phase of the stride, the noise becomes clouds. (It is the kernel of Burt & Adelson, "The Laplacian pyramid as a compact image
# code", IEEE Transactions on Communications, 1983.)

binomial = np.array([1, 4, 6, 4, 1], np.float32) / 8
smooth_weights = [random_weights[0], *(weight[:, :, 2:3, 2:3] * np.outer(binomial, binomial) for weight in random_weights[1:])]
smooth_images = forward(noise, *folded(smooth_weights, calibration)[:2])[-1]


def roughness(images):
    """Mean squared difference of neighbouring pixels over twice the variance: 1 for white noise, near 0 for smooth images."""
    return float((np.diff(images, axis=-1) ** 2).mean() / (2 * images.var()))


console.print(f"roughness: {roughness(images):.2f} with random kernels, {roughness(smooth_images):.2f} with smooth ones")

# %%
# The same with plans: weights packed once, outputs written into arrays that are there. A plan says what it chose and why.

plans = [plan(weight, x.shape, bias=bias, **sizes) for weight, bias, sizes, x in zip(weights, biases, SIZES, activations)]
outputs = [np.empty_like(y) for y in activations[1:]]
y = noise
for name, layer, out in zip(NAMES, plans, outputs):
    y = activate(name, layer(y, out))
planned_error = float(np.abs(y - images).max())
console.print(f"planned and one-shot images differ by {planned_error:.1e} at most")
console.print(plans[1])

# %%
# Time of each layer, median of samples, and its memory: the output, the packed weights that the plan keeps, and the workspace
# of a call.

one_shot, planned, activation = [], [], []
for name, weight, bias, sizes, layer, x, out in zip(NAMES, weights, biases, SIZES, plans, activations, outputs):
    calls = [
        partial(conv_transpose2d, x, weight, bias, **sizes),
        partial(layer, x, out),
        partial(activate, name, out),
    ]
    for times, call in zip((one_shot, planned, activation), calls):
        times.append(statistics.median(measure.sample_times(call, budget=BUDGET)))
    console.print(f"{name:<8} one-shot {units.seconds(one_shot[-1])}, planned {units.seconds(planned[-1])}")
produced = [out.nbytes for out in outputs]
variants = [registry.get(layer.method) for layer in plans]
packed = [variant.prepared_bytes(layer.problem) for variant, layer in zip(variants, plans)]
workspace = [variant.workspace_bytes(layer.problem) for variant, layer in zip(variants, plans)]

caption = f"DCGAN generator, batch of {BATCH}, {plans[0].threads} threads"
table = Table("layer", "output", "method", title=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
for heading in ("one-shot", "planned", "GFLOP/s", "activation", "output", "packed", "workspace"):
    table.add_column(heading, justify="right")
for row in range(len(NAMES)):
    table.add_row(
        NAMES[row],
        "x".join(map(str, activations[row + 1].shape[1:])),
        plans[row].method,
        units.seconds(one_shot[row]),
        units.seconds(planned[row]),
        f"{plans[row].problem.flops / planned[row] / 1e9:.0f}",
        units.seconds(activation[row]),
        *(units.size(column[row]) for column in (produced, packed, workspace)),
    )
console.print(table)

# %%
# From the noise of one image to its pixels: some channels of every layer. Then what the layers cost, and the whole batch.


def mosaic(channels, side):
    """The first ``side**2`` channels (C, H, W) in a square, each scaled to its own range."""
    tiles = channels[: side * side]
    low, high = (f(tiles, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    tiles = np.pad((tiles - low) / np.maximum(high - low, 1e-6), ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return np.block([list(tiles[row * side : (row + 1) * side]) for row in range(side)])[:-1, :-1]


def bars(axes, title, columns, format_value):
    """Bars per layer, one for each of ``columns`` (label, colour, values)."""
    height = 0.84 / len(columns)
    for number, (label, color, values) in enumerate(columns):
        places = np.arange(len(NAMES)) + (number - (len(columns) - 1) / 2) * height
        drawn = axes.barh(places, values, height * 0.9, color=color, label=label)
        axes.bar_label(drawn, [format_value(value) for value in values], padding=3, fontsize=style.SMALL, color=style.INK)
    axes.set(yticks=range(len(NAMES)), yticklabels=NAMES, ylim=(len(NAMES) - 0.5, -0.5), xlim=(0, 1.25 * axes.get_xlim()[1]))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(title, loc="left", pad=22)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0, "borderaxespad": 0.4}
    axes.legend(**place, ncols=len(columns), columnspacing=1.2, handlelength=1.0, handletextpad=0.5)


@style.styled
def draw_figure():
    figure = style.sheet(
        6.0,
        "A DCGAN generator, layer by layer",
        f"100 random numbers become an image of 64 {units.X} 64 pixels by five transposed convolutions. A batch of {BATCH} on "
        f"{plans[0].threads} threads takes {units.seconds(sum(planned))} planned and {units.seconds(sum(one_shot))} one-shot.",
        make=plt.figure,
    )
    path_row, bar_row, image_row = figure.subfigures(3, 1, height_ratios=[1.5, 2.5, 2])
    path = path_row.subplots(1, 6)
    path[0].imshow(noise[0].reshape(10, 10), cmap="RdBu", vmin=-3, vmax=3)
    for axes, y, side in zip(path[1:5], activations[1:5], (8, 4, 2, 1)):
        axes.imshow(mosaic(y[0], side), cmap="gray", interpolation="nearest")
    path[5].imshow(images[0].transpose(1, 2, 0) / 2 + 0.5, interpolation="nearest")
    for axes, name, y in zip(path, ("noise", *NAMES), activations):
        axes.set_title(name)
        axes.set_xlabel(f" {units.X} ".join(map(str, y.shape[1:])))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    time, memory = bar_row.subplots(1, 2)
    bars(time, "Time of a layer", [("one-shot", "#77AADD", one_shot), ("planned", style.OURS, planned)], units.seconds)
    columns = [("output", "#77AADD", produced), ("packed weights", style.OURS, packed), ("workspace", "#BBBBBB", workspace)]
    bars(memory, "Memory of a layer", columns, units.size)
    for row, title, batch in zip(image_row.subfigures(2, 1), ("random kernels", "smooth kernels"), (images, smooth_images)):
        all_axes = row.subplots(1, 8)
        for axes, image in zip(all_axes, batch):
            axes.imshow(image.transpose(1, 2, 0) / 2 + 0.5, interpolation="nearest")
        for axes in all_axes:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        all_axes[0].set_ylabel(title, fontsize=style.SMALL)
    return figure


figure = draw_figure()
save(figure, FIGURE)
