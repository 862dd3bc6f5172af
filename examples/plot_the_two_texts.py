"""
The two texts, retold
=====================

The project starts from two texts about up-sampling: a notebook that builds transposed convolution from the matrix of a
convolution, and a chapter that lays it beside the other ways to enlarge an image. Here are their examples, told in this
package's words and computed by its functions. Where a text prints a number, this page asserts it. The notebook draws its
matrices at random; one draw is kept here, so that the numbers stay.
"""

import numpy as np

from tconv_bench import (
    conv2d,
    conv_transpose2d,
    convolution_matrix,
    figures,
    methods,
    output_shape,
    upsample,
)

inputs = np.array([[4, 5, 8, 7], [1, 8, 8, 8], [3, 6, 6, 4], [6, 5, 7, 8]])
kernel = np.array([[1, 4, 1], [1, 4, 3], [3, 3, 1]])

# %%
# The first text: from nine pixels to one, and back
# -------------------------------------------------
# A 3x3 kernel fits into a 4x4 image at 2x2 places, since (4 - 3 + 2*0) / 1 + 1 = 2. At each place, nine products are added
# up.

down = conv2d(inputs[None, None], kernel[None, None])[0, 0]
assert down.shape == (2, 2)
assert down[0, 0] == np.sum(inputs[0:3, 0:3] * kernel) == 122
print(down)

# %%
# As matrices, the stronger a colour the larger the value:

line = {"Input": inputs, "* Kernel": kernel, "= Output": down}
matrices = figures.matrices(line, title="A convolution")

# %%
# The convolution as a matrix
# ---------------------------
# Number the image's pixels 0 to 15. Each of the four outputs is a sum over some of them, so the convolution is a matrix C
# with 4 rows and 16 columns. A row holds the nine weights at the nine pixels that its output reads, and zeros elsewhere.

C = convolution_matrix((4, 4), kernel)
assert C.shape == (4, 16)
print(C.toarray())

# %%
# Times the image as a column, it is the convolution:

column = inputs.reshape(-1, 1)
assert ((C @ column).reshape(2, 2) == down).all()
print((C @ column).ravel())

# %%
# Its transpose goes the other way. A column of ``C.T`` holds the same nine weights, so one pixel of a small image reaches
# nine pixels of a large one: the connections are those of the convolution, walked backwards. From 4 numbers, 16.

small = np.array([[2], [1], [4], [4]])
large = C.T @ small
print(large.reshape(4, 4))

# %%
# The figure has all of it: C and its product above, ``C.T`` and its product below.

both_ways = figures.matrix_view(inputs, kernel, small.reshape(2, 2))

# %%
# The result is not the image that the convolution came from. ``C.T`` turns shapes round, not values: hence *transposed*
# convolution, and not the "deconvolution" that it is also called. Its third name, *fractionally-strided* convolution, is
# explained by the zeros below: between two pixels of the small image the kernel takes several steps.
#
# A network's weights are learned, and the matrix moves with them; nobody builds it for a large image. Every method here
# computes the same numbers without it, but for ``matmul``, which is it:

for method in methods():
    dtype = float if method == "winograd" else int  # winograd computes with halves
    x, weight = small.reshape(1, 1, 2, 2).astype(dtype), kernel[None, None].astype(dtype)
    up = conv_transpose2d(x, weight, method=method)
    assert (up[0, 0] == large.reshape(4, 4)).all()
    print(f"{method:<15} agrees")

# %%
# The first text ends with a remark: put zeros between the pixels, and an ordinary convolution does the same. With stride 2,
# one zero goes between neighbours and two around them, and the kernel is turned by 180 degrees. It is correct, and mostly
# multiplies zeros.

stretched = np.zeros((1, 1, 7, 7), int)
stretched[0, 0, 2:5:2, 2:5:2] = small.reshape(2, 2)
by_zeros = conv2d(stretched, kernel[None, None, ::-1, ::-1])
by_stride = conv_transpose2d(small.reshape(1, 1, 2, 2), kernel[None, None], stride=2)
assert (by_zeros == by_stride).all()
zeros = figures.zero_insertion(small.reshape(2, 2), kernel, stride=2)

# %%
# The second text: ways to enlarge an image
# -----------------------------------------
# It begins with the shrinking that a convolution does. Five pixels, a kernel of three, stride 1: 1 + (5 - 3 + 2*0) / 1 = 3.
# With three channels in, the kernel has three too, and one channel comes out.

assert conv2d(np.ones((1, 3, 5, 5)), np.ones((1, 3, 3, 3))).shape == (1, 1, 3, 3)

# %%
# Then the ways back up that learn nothing. **Nearest neighbour**: every pixel becomes a block of copies. The text names the
# factor for the number of copies, four; along each axis it is two.

image = np.array([[1, 2], [3, 4]])
print(upsample.nearest(image, 2))

# %%
# **Bilinear interpolation**: between the pixels, weighted means. In float64:

corners = np.array([[10, 20], [30, 40]])
print(upsample.bilinear(corners.astype(float), 2))

# %%
# The text prints whole numbers, 12 for 12.5 and 17 for 17.5: it cuts the fraction off.

printed = np.array([[10, 12, 17, 20], [15, 17, 22, 25], [25, 27, 32, 35], [30, 32, 37, 40]])
assert (np.floor(upsample.bilinear(corners.astype(float), 2)) == printed).all()

# %%
# **Bed of nails**: the pixel in the corner of its block, zeros elsewhere.

print(upsample.bed_of_nails(image, 2))

# %%
# All of them beside each other, with the cubic interpolation that the first text names too. With aligned corners the pixels of
# the corners keep their places, and what lies between them is spread evenly.

enlarged = figures.enlargements(corners)

# %%
# **Max unpooling**: pooling keeps the largest value of each block and remembers where it stood; unpooling puts values back
# there.

before = np.array([[1, 2, 4, 1], [3, 4, 2, 3], [1, 4, 1, 2], [2, 3, 4, 3]])
pooled, places = upsample.max_pool2d(before, 2)
print(pooled)
print(upsample.max_unpool2d(image, places, 2))
unpooled = figures.unpooling(before, image)

# %%
# And the way that learns
# -----------------------
# The 2x2 image and a kernel of fives. The output has (2 - 1)*1 - 2*0 + 2 = 3 pixels a side. Each pixel times the kernel is a
# stamp:

assert output_shape(2, 2, stride=1, padding=0) == 3
fives = np.full((2, 2), 5)
for row, col in np.ndindex(2, 2):
    alone = np.zeros((1, 1, 2, 2), int)
    alone[0, 0, row, col] = image[row, col]
    print(conv_transpose2d(alone, fives[None, None])[0, 0], end="\n\n")

# %%
# And the sum of the four is the output:

summed = conv_transpose2d(image[None, None], fives[None, None])[0, 0]
assert summed.tolist() == [[5, 15, 10], [20, 50, 30], [15, 35, 20]]
print(summed)
stamps = figures.stamps(image, fives)

# %%
# The caution
# -----------
# The first text warns of checkerboards. Count the products that meet in each pixel: with a kernel of 3 and a stride of 2 they
# differ from pixel to pixel, with a kernel of 4 they don't.

overlaps = figures.overlap((5, 5), 3, 2)

# %%
# What it recommends instead, an up-sampling followed by a convolution, is ``upsample.resize_convolve``.
#
# Read on
# -------
# V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285. A. Radford, L. Metz and
# S. Chintala, "Unsupervised representation learning with deep convolutional generative adversarial networks",
# arXiv:1511.06434. J. Long, E. Shelhamer and T. Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015.
# A. Odena, V. Dumoulin and C. Olah, "Deconvolution and checkerboard artifacts", Distill 2016.
