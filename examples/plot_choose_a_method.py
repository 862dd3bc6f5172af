"""
Choose a method
===============

Seven methods compute the same numbers. Usually ``"auto"`` picks one; this page shows what it knows, how a plan explains
itself, and how to ask for one by name.
"""

import numpy as np

from tconv_bench import Problem, conv_transpose2d, methods, plan
from tconv_bench.figures import phases

methods()

# %%
# A layer in one line
# -------------------
# The second layer of DCGAN's generator: 512 channels of 8x8 pixels become 256 channels of 16x16. A ``Problem`` checks the
# sizes, knows the arithmetic, and is one line of text that every command of the package takes.

problem = Problem.parse("n1_ci512_i8x8_co256_k4x4_s2x2_p1x1")
print(f"output {problem.out_shape}")
print(f"{problem.flops:,} operations, at least {problem.min_bytes:,} bytes to move")

# %%
# A plan and its reasons
# ----------------------
# ``plan`` packs the weights once and chooses by a cost model, without a measurement. Printed, it says what it does, what it
# needs, and what the other methods were expected to take. A method that cannot serve the problem says why.

rng = np.random.default_rng(0)
weight = rng.standard_normal(problem.weight_shape, dtype=np.float32)
layer = plan(weight, problem.x_shape, stride=2, padding=1)
print(layer)

# %%
# It is called with an input of the shape that it was made for; ``out`` takes an array to write into, and then nothing is
# allocated.

x = rng.standard_normal(problem.x_shape, dtype=np.float32)
y = layer(x)
layer(x, out=y)
y.shape

# %%
# By name
# -------
# Every method gives the same sums, up to the rounding of floats in another order.

for method in ("phase", "winograd", "direct", "scatter_add", "col2im", "zero_insertion"):
    other = conv_transpose2d(x, weight, stride=2, padding=1, method=method)
    apart = np.abs(other - y).max() / np.abs(y).max()
    print(f"{method:<15} differs by {apart:.0e} of the largest value")

# %%
# Integers are exact, and a method that does not serve them says so and names another one.

try:
    ones = np.ones((1, 1, 4, 4), int)
    conv_transpose2d(ones, ones, stride=2, method="winograd")
except NotImplementedError as error:
    print(error)

# %%
# Why ``phase`` is often the one
# ------------------------------
# With stride 2, output pixels of one colour use the same taps of the kernel, and no others: four small dense convolutions, no
# zero inserted, no product wasted.

image, kernel = np.arange(1, 10).reshape(3, 3), np.arange(1, 17).reshape(4, 4)
picture = phases(image, kernel, stride=2, padding=1)
