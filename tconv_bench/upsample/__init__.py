"""Ways to up-sample: those with nothing to learn, resize-convolution, and transposed convolution by a scale.

``nearest``, ``bilinear``, ``bicubic`` and ``bed_of_nails`` enlarge the last axes by whole scales; ``max_pool2d`` and
``max_unpool2d`` shrink and put back; ``pixel_shuffle`` turns channels into pixels; ``resize_convolve`` resizes and then
convolves, which leaves no checkerboard (Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts", Distill 2016);
``conv_transpose`` is the transposed convolution with the same arguments.

All take any number of leading axes, NumPy arrays of any memory order, float32, float64 and every integer dtype, and never
modify what they are given. Where the channels, the axis before those that are enlarged, are innermost in memory, they are so in
the result. Results depend neither on the number of threads nor on the run.
"""

from tconv_bench.upsample.interpolation import bicubic, bilinear
from tconv_bench.upsample.pooling import max_pool2d, max_unpool2d
from tconv_bench.upsample.resize_convolution import resize_convolve
from tconv_bench.upsample.shuffles import bed_of_nails, nearest, pixel_shuffle
from tconv_bench.upsample.transposed import conv_transpose

__all__ = [
    "bed_of_nails",
    "bicubic",
    "bilinear",
    "conv_transpose",
    "max_pool2d",
    "max_unpool2d",
    "nearest",
    "pixel_shuffle",
    "resize_convolve",
]
