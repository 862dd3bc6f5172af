"""
Up-sampling that learns
=======================

Nearest, bilinear and bicubic interpolation are transposed convolutions with fixed weights. Here the weights learn from photographs:
a photograph is made small, by averaging squares of 2 x 2 or 4 x 4 pixels, and a transposed convolution is trained to give back what
was lost. What it learns is tested on photographs that it has not seen, against the fixed kernels.

Each kernel is trained twice, from random weights and from the bilinear kernel. The second start is a trick of the paper that made
transposed convolutions known for segmentation: the network begins as good as interpolation and can only get better.

Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015, section 3.3.
"""

# %%
# The photographs ship with scikit-image. Five are learned from, three others are tested on; all as grey values from 0 to 1, the
# small images as averages of squares, so that pixels are areas, as half-pixel interpolation takes them.

import matplotlib.pyplot as plt
import numpy as np
from _script import arguments, console, save, steps
from _training import Adam, Conv, ConvTranspose, bilinear, normal
from rich.table import Table
from skimage import color, data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tconv_bench import units, upsample
from tconv_bench.plots import style

QUICK, FIGURE = arguments(__file__)
STEPS, NETWORK_STEPS = (60, 60) if QUICK else (600, 1500)
CROP = 64 if QUICK else None  # pixels of a test photograph's side
SCALES = (2, 4)
PATCH, BATCH = 64, 16  # pixels of a large patch's side, patches per step


def grey(photograph):
    """Grey values (H, W) from 0 to 1, the sides whole multiples of 4."""
    values = color.rgb2gray(photograph) if photograph.ndim == 3 else photograph / 255
    return values[: values.shape[0] // 4 * 4, : values.shape[1] // 4 * 4].astype(np.float32)


def smaller(images, scale):
    """Averages of ``scale`` x ``scale`` pixels; images (..., H, W)."""
    *more, height, width = images.shape
    return images.reshape(*more, height // scale, scale, width // scale, scale).mean(axis=(-3, -1))


TRAINING = [grey(p) for p in (data.astronaut(), data.rocket(), data.stereo_motorcycle()[0], data.coins(), data.gravel())]
TEST = {"camera": grey(data.camera()), "cat": grey(data.chelsea()), "coffee": grey(data.coffee())}
if CROP:
    TEST = {name: photograph[100 : 100 + CROP, 150 : 150 + CROP] for name, photograph in TEST.items()}

# %%
# A kernel is one transposed convolution with one channel in and one out. The k = 2s kernel weights 2 x 2 small pixels for each
# large one, as bilinear interpolation does, the k = 4s kernel 4 x 4, as bicubic does. A margin of small pixels, at the borders
# copies of the outermost ones, surrounds the image and is cropped again by the padding.


class Kernel:
    """One kernel (1, 1, k, k) that enlarges ``scale`` times; ``margin`` small pixels surround what it is given."""

    def __init__(self, weight, scale):
        self.margin = weight.shape[-1] // (2 * scale)
        self.up = ConvTranspose(weight, stride=scale, padding=(weight.shape[-1] - scale) // 2 + self.margin * scale)
        self.layers = [self.up]

    def __call__(self, x):
        return self.up(x)

    def backward(self, grad):
        self.up.backward(grad)


def embedded(kernel, size):
    """A kernel (1, 1, size, size), ``kernel`` in its middle and zeros around."""
    edge = (size - kernel.shape[0]) // 2
    return np.pad(kernel, edge)[None, None]


def random_kernel(rng, size, scale):
    """Weights that give the output about the input's mean square."""
    return normal(rng, (1, 1, size, size), scale / size)


# %%
# A small network is one step further: an ordinary convolution finds features, and the transposed convolution enlarges the image and
# the features at once. It starts with the bilinear kernel for the image and zeros for the features, and so as bilinear
# interpolation.

FEATURES = 32


class Network:
    """conv 5x5 -> ReLU -> transposed convolution of the image and the features."""

    def __init__(self, rng, scale):
        self.margin = 4
        size = 4 * scale
        self.features = Conv(normal(rng, (FEATURES, 1, 5, 5), 0.2), np.zeros(FEATURES, np.float32))
        weight = np.concatenate([embedded(bilinear(scale), size), np.zeros((FEATURES, 1, size, size), np.float32)])
        self.up = ConvTranspose(weight, stride=scale, padding=(size - scale) // 2 + 2 * scale)
        self.layers = [self.features, self.up]

    def __call__(self, x):
        self.found = np.maximum(self.features(x), 0)
        return self.up(np.concatenate([x[:, :, 2:-2, 2:-2], self.found], axis=1))

    def backward(self, grad):
        self.features.backward(self.up.backward(grad)[:, 1:] * (self.found > 0))


# %%
# Training: random patches of the five photographs, mirrored at random; the loss is the mean squared error.


def patches(rng, scale, margin):
    """Small patches (BATCH, 1, h, w) with a margin, and the large ones that belong to their middle."""
    side = PATCH + 2 * margin * scale
    large = []
    for photograph in rng.integers(len(TRAINING), size=BATCH):
        image = TRAINING[photograph]
        row, column = (rng.integers(0, size - side + 1) for size in image.shape)
        patch = image[row : row + side, column : column + side]
        large.append(patch[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])])
    large = np.stack(large)[:, None]
    edge = margin * scale
    return smaller(large, scale), large[:, :, edge:-edge, edge:-edge]


def enlarged(model, photograph, scale):
    """A test photograph, made small and enlarged again."""
    small = np.pad(smaller(photograph, scale), model.margin, mode="edge")
    return model(small[None, None])[0, 0]


def psnr(photograph, image):
    """Peak signal to noise ratio in dB, values cut to 0 ... 1."""
    return peak_signal_noise_ratio(photograph, np.clip(image, 0, 1), data_range=1)


def mean_psnr(model, scale):
    """Over the test photographs."""
    return float(np.mean([psnr(photograph, enlarged(model, photograph, scale)) for photograph in TEST.values()]))


def train(model, scale, count, rate, what):
    """The loss at every step, and the test photographs' PSNR at some of them."""
    rng = np.random.default_rng(5)
    adam = Adam(model.layers, rate, count)
    losses, curve = [], {0: mean_psnr(model, scale)}
    looks = set(np.unique(np.geomspace(1, count, 12).astype(int)))
    for step in steps(count, what):
        small, large = patches(rng, scale, model.margin)
        error = model(small) - large
        losses.append(float((error**2).mean()))
        model.backward(2 / error.size * error)
        adam.update()
        if step + 1 in looks:
            curve[step + 1] = mean_psnr(model, scale)
    console.print(f"x{scale} {what}: test photographs {curve[0]:.2f} -> {curve[count]:.2f} dB")
    return losses, curve


models, before, losses, curves = {}, {}, {}, {}
for scale in SCALES:
    rng = np.random.default_rng(scale)
    for times in (2, 4):
        size = times * scale
        starts = {"random": random_kernel(rng, size, scale), "bilinear": embedded(bilinear(scale), size)}
        for start, weight in starts.items():
            key = (scale, f"{size}x{size} kernel, from {start}")
            before[key] = weight.copy()
            models[key] = Kernel(weight, scale)
            losses[key], curves[key] = train(models[key], scale, STEPS, 0.02, key[1])
    key = (scale, "network")
    models[key] = Network(rng, scale)
    losses[key], curves[key] = train(models[key], scale, NETWORK_STEPS, 0.003, key[1])

# %%
# How good can a kernel be? The least squared error of one kernel is where linear least squares puts it. Its equations come from one
# transposed convolution with as many channels as the kernel has taps, each of them with a single tap that is 1.


def least_squares(size, scale):
    """The ``Kernel`` with the least squared error on patches of the training photographs."""
    rng = np.random.default_rng(5)
    taps = size * size
    each_tap = Kernel(np.eye(taps, dtype=np.float32).reshape(1, taps, size, size), scale)
    products, targets = np.zeros((taps, taps)), np.zeros(taps)
    for _ in range(2 if QUICK else 12):
        small, large = patches(rng, scale, each_tap.margin)
        columns = each_tap(small).swapaxes(0, 1).reshape(taps, -1)
        products += columns @ columns.T
        targets += columns @ large.ravel()
    weight = np.linalg.solve(products + 1e-6 * np.trace(products) / taps * np.eye(taps), targets)
    return Kernel(weight.reshape(1, 1, size, size).astype(np.float32), scale)


for scale in SCALES:
    for size in (2 * scale, 4 * scale):
        models[scale, f"{size}x{size} kernel, least squares"] = least_squares(size, scale)

# %%
# The results, over the three test photographs: PSNR and SSIM, the higher the better.

FIXED = {"nearest": upsample.nearest, "bilinear": upsample.bilinear, "bicubic": upsample.bicubic}


def scores(photograph, image):
    """PSNR in dB and SSIM."""
    return psnr(photograph, image), structural_similarity(photograph, np.clip(image, 0, 1), data_range=1)


results, pictures = {}, {}
for scale in SCALES:
    for name, photograph in TEST.items():
        for method, enlarge in FIXED.items():
            pictures[scale, method, name] = enlarge(smaller(photograph, scale), scale)
        for key, model in models.items():
            if key[0] == scale:
                pictures[scale, key[1], name] = enlarged(model, photograph, scale)
for (scale, method, name), image in pictures.items():
    results.setdefault((scale, method), []).append(scores(TEST[name], image))
results = {key: np.mean(values, axis=0) for key, values in results.items()}

for scale in SCALES:
    table = Table("method", title=f"x{scale}: mean over {', '.join(TEST)}")
    for heading in ("PSNR, dB", "against bicubic", "SSIM"):
        table.add_column(heading, justify="right")
    for (of, method), (ratio, similarity) in results.items():
        if of == scale:
            table.add_row(method, f"{ratio:.2f}", f"{ratio - results[scale, 'bicubic'][0]:+.2f}", f"{similarity:.4f}")
    console.print(table)

# %%
# Pictures: how the test photographs' PSNR grows with the steps of training, the kernels for x4 before and after, and a part of two
# test photographs.

SHOWN = {"camera": (60, 200), "cat": (84, 124)}  # top and left pixel of the parts
SIDE = 128
TINTS = ("#77AADD", "#004488", "#BB5566")


def bare(axes):
    """Neither ticks nor frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_curves(axes, scale):
    """PSNR against steps; step 0 is drawn at a half."""
    kinds = (f"{2 * scale}x{2 * scale} kernel", f"{4 * scale}x{4 * scale} kernel", "network")
    for kind, tint in zip(kinds, TINTS):
        for start, dash in (("from bilinear", "-"), ("from random", "--"), ("", "-")):
            curve = curves.get((scale, f"{kind}, {start}" if start else kind))
            if curve:
                label = kind if dash == "-" else None
                axes.plot([max(step, 0.5) for step in curve], list(curve.values()), dash, color=tint, label=label, lw=1.5)
    for method in FIXED:
        level = results[scale, method][0]
        axes.axhline(level, color=style.FAINT, lw=0.7, zorder=0)
        axes.annotate(method, (0.5, level), (2, 1), textcoords="offset points", color=style.FAINT, fontsize=style.SMALL, va="bottom")
    axes.set(xscale="log", xlabel="steps of training", ylabel="PSNR, dB" if scale == SCALES[0] else "")
    axes.set_ylim(results[scale, "nearest"][0] - 1, max(ratio for (of, _), (ratio, _) in results.items() if of == scale) + 0.6)
    axes.set_title(f"{scale} times larger", loc="left")
    axes.legend(loc="lower right", fontsize=style.SMALL)


@style.styled
def draw_figure():
    figure = style.sheet(
        9.6,
        "Up-sampling that learns",
        "Transposed convolutions trained on five photographs to undo the averaging of pixels, tested on three others. Broken lines: "
        "from random weights.",
        make=plt.figure,
    )
    curve_part, kernel_part, photograph_part = figure.subfigures(3, 1, height_ratios=[2.7, 1.9, 5.0])
    for axes, scale in zip(curve_part.subplots(1, 2), SCALES):
        draw_curves(axes, scale)
    names = [("16x16 kernel, from random", "random"), ("16x16 kernel, from bilinear", "bilinear")]
    shown = []
    for name, start in names:
        shown += [(start, before[4, name]), (f"learned from {start}", models[4, name].up.parameters[0])]
    shown.append(("least squares", models[4, "16x16 kernel, least squares"].up.parameters[0]))
    reach = float(np.abs(shown[-1][1]).max())
    for axes, (title, weight) in zip(kernel_part.subplots(1, 5), shown):
        axes.imshow(weight[0, 0], cmap="RdBu", vmin=-reach, vmax=reach, interpolation="nearest")
        axes.set_title(title)
        bare(axes)
    kernel_part.axes[0].set_ylabel(f"kernels, {units.X} 4")
    methods = ("photograph", "nearest", "bilinear", "bicubic", "16x16 kernel, from bilinear", "network")
    for row, (name, (top, left)) in zip(photograph_part.subplots(len(SHOWN), len(methods) // 1), SHOWN.items()):
        part = (slice(top, top + SIDE), slice(left, left + SIDE)) if not QUICK else (slice(None), slice(None))
        for axes, method in zip(row, methods):
            image = TEST[name] if method == "photograph" else pictures[4, method, name]
            axes.imshow(image[part], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            bare(axes)
    return figure


figure = draw_figure()
save(figure, FIGURE)
