"""
Up-sampling that learns
=======================

Nearest, bilinear and bicubic interpolation are transposed convolutions with fixed weights. Here the weights learn from
photographs: a photograph is made small, by averaging squares of 2 x 2 or 4 x 4 pixels, and a transposed convolution is trained
to give back what was lost. What it learns is tested on photographs that it has not seen, against the fixed kernels.

Each kernel is trained twice, from random weights and from the bilinear kernel. The second start is a trick of the paper that
made transposed convolutions known for segmentation: the network begins as good as interpolation.

What comes out: one learned kernel of bicubic interpolation's size is 0.3 dB (2 times larger) and 0.2 dB (4 times) better than
bicubic, a small network 0.7 and 0.5 dB. A kernel of bilinear interpolation's size is better than bilinear, but never as good as
bicubic: 2 x 2 pixels do not say enough. Both starts end at the same kernel, the one that least squares names; the bilinear
start passes bicubic after about 50 steps, the random one after 150 to 300.

Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015, section 3.3.
"""

# %%
# The photographs ship with scikit-image. Five are learned from, three others are tested on; all as grey values around 0, the
# small images as averages of squares, so that pixels are areas, as half-pixel interpolation takes them.

import matplotlib.pyplot as plt
import numpy as np
from _script import arguments, console, save, steps
from _training import Adam, Conv, ConvTranspose, bilinear, normal
from matplotlib.lines import Line2D
from rich import box
from rich.table import Table
from skimage import color, data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tconv_bench import units, upsample
from tconv_bench.plots import style

QUICK, FIGURE = arguments(__file__)
STEPS, NETWORK_STEPS = (40, 15) if QUICK else (1000, 1500)
CROP = 64 if QUICK else None  # pixels of a test photograph's side
SCALES = (4,) if QUICK else (2, 4)
PATCH, BATCH = 64, 16  # pixels of a large patch's side, patches per step


def grey(photograph):
    """Grey values (H, W) from -1/2 to 1/2, the sides whole multiples of 4."""
    values = (color.rgb2gray(photograph) if photograph.ndim == 3 else photograph / 255) - 0.5
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


# %%
# A small network is one step further: an ordinary convolution finds features, and the transposed convolution enlarges the image
# and the features at once. It starts with the bilinear kernel for the image and zeros for the features, and so as bilinear
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
    """Peak signal to noise ratio in dB, values cut to -1/2 ... 1/2."""
    return peak_signal_noise_ratio(photograph, np.clip(image, -0.5, 0.5), data_range=1)


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
        starts = {"random": normal(rng, (1, 1, size, size), 0.1), "bilinear": embedded(bilinear(scale), size)}
        for start, weight in starts.items():
            key = (scale, f"{size}x{size} kernel, from {start}")
            before[key] = weight.copy()
            models[key] = Kernel(weight, scale)
            losses[key], curves[key] = train(models[key], scale, STEPS, 0.05, key[1])
    key = (scale, "network")
    models[key] = Network(rng, scale)
    losses[key], curves[key] = train(models[key], scale, NETWORK_STEPS, 0.003, key[1])

# %%
# How good can a kernel be? The least squared error of one kernel is where linear least squares puts it. Its equations come from
# one transposed convolution with as many channels as the kernel has taps, each of them with a single tap that is 1.


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
    return psnr(photograph, image), structural_similarity(photograph, np.clip(image, -0.5, 0.5), data_range=1)


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
    table = Table("method", title=f"x{scale}: mean over {', '.join(TEST)}", box=box.SIMPLE_HEAD)
    for heading in ("PSNR, dB", "against bicubic", "SSIM"):
        table.add_column(heading, justify="right")
    for (of, method), (ratio, similarity) in results.items():
        if of == scale:
            table.add_row(method, f"{ratio:.2f}", f"{ratio - results[scale, 'bicubic'][0]:+.2f}", f"{similarity:.4f}")
    console.print(table)

# %%
# Pictures: how the test photographs' PSNR grows with the steps of training, the kernels for x4 before and after, and a part of
# two test photographs.

SHOWN = {"camera": (60, 200), "cat": (84, 124)}  # top and left pixel of the parts
SIDE = 128
TINTS = ("#77AADD", style.OURS, style.THEIRS)


def kinds(scale):
    """Names of what is trained."""
    return f"{2 * scale}x{2 * scale} kernel", f"{4 * scale}x{4 * scale} kernel", "network"


def bare(axes):
    """Neither ticks nor frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_curves(part):
    """PSNR against steps for each scale; what was before the first step is drawn at a half."""
    for axes, scale in zip(part.subplots(1, len(SCALES), squeeze=False)[0], SCALES):
        for kind, tint in zip(kinds(scale), TINTS):
            for start, dash in ((", from random", "--"), (", from bilinear", "-"), ("", "-")):
                if curve := curves.get((scale, kind + start)):
                    axes.plot([max(step, 0.5) for step in curve], list(curve.values()), dash, color=tint)
        for method in FIXED:
            level = results[scale, method][0]
            axes.axhline(level, color=style.FAINT, lw=0.7, zorder=0)
            axes.annotate(
                method, (1, level), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
            )
        axes.set(xscale="log", xlabel="steps of training", xlim=(0.5, None))
        axes.set_ylim(
            results[scale, "nearest"][0] - 1.5, max(ratio for (of, _), (ratio, _) in results.items() if of == scale) + 0.3
        )
        axes.set_title(f"PSNR in dB, {scale} times larger", loc="left")


def draw_kernels(part):
    """The kernels for x4 that look at 4 x 4 pixels: before, after, and the best."""
    size = "16x16 kernel"
    shown = [
        ("random", before[4, f"{size}, from random"]),
        ("learned from it", models[4, f"{size}, from random"].up.parameters[0]),
        ("bilinear", before[4, f"{size}, from bilinear"]),
        ("learned from it", models[4, f"{size}, from bilinear"].up.parameters[0]),
        ("least squares", models[4, f"{size}, least squares"].up.parameters[0]),
    ]
    reach = float(np.abs(shown[-1][1]).max())
    for axes, (title, weight) in zip(part.subplots(1, len(shown)), shown):
        axes.imshow(weight[0, 0], cmap="RdBu", vmin=-reach, vmax=reach, interpolation="nearest")
        axes.set_title(title)
        bare(axes)
    part.axes[0].set_ylabel(f"kernels, {units.X}4")


def draw_photographs(part):
    """A part of two test photographs, made small and enlarged four times, with the part's PSNR."""
    methods = {"photograph": "photograph", "averages": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}
    methods |= {"learned kernel": "16x16 kernel, from bilinear", "learned network": "network"}
    for row, (name, (top, left)) in zip(part.subplots(len(SHOWN), len(methods)), SHOWN.items()):
        window = (slice(None), slice(None)) if QUICK else (slice(top, top + SIDE), slice(left, left + SIDE))
        for axes, (title, method) in zip(row, methods.items()):
            original = TEST[name][window]
            image = original if method == "photograph" else pictures[4, method, name][window]
            axes.imshow(image, cmap="gray", vmin=-0.5, vmax=0.5, interpolation="nearest")
            axes.set_xlabel(name if method == "photograph" else f"{psnr(original, image):.2f} dB", fontsize=style.SMALL)
            bare(axes)
            if name == "camera":
                axes.set_title(title)


@style.styled
def draw_figure():
    heights = [2.5, 1.85, 3.2]
    kernel_gains, network_gains = (
        " and ".join(f"{results[scale, kind][0] - results[scale, 'bicubic'][0]:+.2f}" for scale, kind in best)
        for best in (
            [(scale, f"{kinds(scale)[1]}, from bilinear") for scale in SCALES],
            [(scale, "network") for scale in SCALES],
        )
    )
    larger = " and ".join(map(str, SCALES))
    figure = style.sheet(
        sum(heights),
        "Up-sampling that learns",
        "Transposed convolutions trained on five photographs and tested on three others. Against bicubic, "
        f"{larger} times larger: {kernel_gains} dB with one kernel of its size, {network_gains} dB with a small network.",
        key=style.legend_height(range(5)),
        make=plt.figure,
    )
    handles = [
        Line2D([], [], color=tint, label=label) for tint, label in zip(TINTS, ("k = 2s kernel", "k = 4s kernel", "network"))
    ]
    handles += [
        Line2D([], [], color=style.FAINT, ls=dash, label=f"from {start}")
        for start, dash in (("bilinear", "-"), ("random", "--"))
    ]
    place = {"loc": "lower left", "bbox_to_anchor": (0.004, sum(heights) / figure.get_figheight()), "borderaxespad": 0.1}
    figure.legend(handles=handles, **place, ncols=5, columnspacing=1.6, handlelength=2.0)
    for draw_part, part in zip((draw_curves, draw_kernels, draw_photographs), figure.subfigures(3, 1, height_ratios=heights)):
        draw_part(part)
    return figure


figure = draw_figure()
save(figure, FIGURE)
