"""Run time of ``conv_transpose_grads``: a whole call with fresh results, float32, on the layers of layers.csv.

One parameter, a layer's label. asv's pages show these times; the report page, whose rows are forward passes, leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import common
from tconv_bench import gradients_comparison, layers

MOST_FLOPS = {"quick": 10**9, "standard": 10**10, "full": 10**12}  # of a forward pass
_PROBLEMS = {
    layer.label: layer.problem for layer in layers.read() if layer.problem.flops <= MOST_FLOPS[common.chosen_profile()]
}


class Backward(common._Whole):
    params = [list(_PROBLEMS)]
    param_names = ["layer"]

    def made_ready(self, text: str) -> Callable[[], Any]:
        return gradients_comparison.ours(_PROBLEMS[text])
