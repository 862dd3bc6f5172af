"""Run time of the up-sampling operators of ``tconv_bench.upsample``: a whole call with a fresh output, float32.

One parameter, a case's text such as ``bilinear 1x3x256x256 x2``. asv's pages show these times; the report page, whose rows are
transposed convolutions, leaves them out.

``tconv-bench run`` gives asv's processes the allocator of the comparison with PyTorch. A plain ``asv run`` has its shell's:
nearest 1x64x64x64 x2 then took 68 us in one process and 133 in another, and 67 to 83 in all with the comparison's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import common
from tconv_bench import upsample_comparison

OTHERS = (*upsample_comparison.LINES, *upsample_comparison.VOLUMES, *upsample_comparison.LAYERS)
SIZES = {
    "quick": ("1x64x64x64", "1x3x256x256"),
    "standard": (*upsample_comparison.SIZES[:-1], *OTHERS),
    "full": (*upsample_comparison.SIZES, *OTHERS),
}
SCALES = {"quick": (2,), "standard": (2,), "full": (2, 3, 4, 8)}
_CASES = {
    str(case): case
    for case in upsample_comparison.cases()
    if not (common.chosen_profile() == "quick" and case.operator.endswith(("-innermost", "-bytes")))
    and case.size in SIZES[common.chosen_profile()]
    and case.scale in SCALES[common.chosen_profile()]
}


class Call(common._Whole):
    params = [list(_CASES)]
    param_names = ["case"]

    def made_ready(self, text: str) -> Callable[[], Any]:
        return _CASES[text].ours()
