"""
One pixel, one stamp
====================

A transposed convolution in one sentence: **every input pixel stamps the kernel, multiplied by the pixel, and stamps that
overlap add up.** This page does it by hand, then with the package, then larger.
"""

import numpy as np

from tconv_bench import conv_transpose2d, figures, output_shape

image = np.array([[1, 2], [3, 4]])
kernel = np.array([[5, 5], [5, 5]])

# %%
# By hand
# -------
# The first stamp covers the rows 0 to 1, the last one the rows 1 to 2: the output has three rows and three columns.

size = output_shape(2, 2)
by_hand = np.zeros((size, size), int)
for row, column in np.ndindex(image.shape):
    by_hand[row : row + 2, column : column + 2] += image[row, column] * kernel
print(by_hand)

# %%
# The same four steps as a figure. The centre, 50, is where all four stamps meet: 5 + 10 + 15 + 20.

stamps = figures.stamps(image, kernel)

# %%
# With the package
# ----------------
# Layers of networks have many images and channels, so arrays carry two more axes: x is (images, channels in, rows, columns)
# and the weights are (channels in, channels out, rows, columns). Here each of them is one.

y = conv_transpose2d(image[None, None], kernel[None, None])
assert (y[0, 0] == by_hand).all()
print(y[0, 0])

# %%
# Stride: the stamps move apart
# -----------------------------
# With stride 2 the stamps of a 2x2 kernel stand side by side. Every pixel becomes a block: the image is up-sampled by two.

apart = conv_transpose2d(image[None, None], kernel[None, None], stride=2)
print(apart[0, 0])

# %%
# With a 3x3 kernel they overlap again, by one row and one column. Where two stamps overlap, twice as many products meet as
# beside it; where four do, four times as many. This is where checkerboards come from.

numbers = np.arange(1, 10).reshape(3, 3)
wide = figures.stamps(image, numbers, stride=2)

# %%
# Padding: the border is cropped
# ------------------------------
# ``padding=1`` takes one row and one column away from every side of the output. What is grey is computed by no method here.

cropped = conv_transpose2d(image[None, None], numbers[None, None], stride=2, padding=1)
print(cropped[0, 0])
padded = figures.stamps(image, numbers, stride=2, padding=1)

# %%
# Your turn
# ---------
# Change the image, the kernel, the stride. Which output size do you expect? ``output_shape(in_size, kernel, stride,
# padding)`` knows:

for stride in (1, 2, 3):
    for padding in (0, 1):
        size = output_shape((2, 2), (3, 3), stride, padding)
        print(f"stride {stride}, padding {padding}: {size}")
