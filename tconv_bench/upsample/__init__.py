from tconv_bench.upsample.shuffles import nearest, bed_of_nails, pixel_shuffle
from tconv_bench.upsample.interpolation import bilinear, bicubic
