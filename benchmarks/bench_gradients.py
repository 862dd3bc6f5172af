"""Run time of ``conv_transpose_grads``: a whole call with fresh results, float32, on the layers of layers.csv.

One parameter, a layer's label. asv's pages show these times; the report page, whose rows are forward passes, leaves them out.
"""

from __future__ import annotations

from time import perf_counter

from benchmarks import common
from tconv_bench import gradients_comparison, layers, measure

MOST_FLOPS = {"quick": 10**9, "standard": 10**10, "full": 10**12}  # of a forward pass
_PROBLEMS = {
    layer.label: layer.problem for layer in layers.read() if layer.problem.flops <= MOST_FLOPS[common.chosen_profile()]
}


class Backward:
    params = [list(_PROBLEMS)]
    param_names = ["layer"]
    number = 1
    rounds = common.PROFILE.rounds
    repeat = common.PROFILE.repeat
    warmup_time = common.PROFILE.warmup
    _ready = ""

    def setup(self, layer: str) -> None:
        if layer != self._ready:
            self.call = gradients_comparison.ours(_PROBLEMS[layer])
            self.calls = measure.calls_per_sample(self.call)
            self._ready = layer

    def timer(self) -> float:
        return perf_counter() / self.calls

    def time_call(self, layer: str) -> None:
        call = self.call
        for _ in range(self.calls):
            call()
