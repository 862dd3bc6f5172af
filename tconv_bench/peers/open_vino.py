"""OpenVINO on the CPU: ConvolutionBackpropData and Add, compiled for one request at a time, on the caller's arrays.

The plugin fuses the bias, reorders the weights once, and computes with oneDNN; inputs and outputs are channels-first, reordered
inside of a call where the primitive wants blocks. Its hint for the inference precision is set to float32: by itself it computes
in bfloat16 on CPUs that have it.

Source: https://docs.openvino.ai, operation set 1, ConvolutionBackpropData and GroupConvolutionBackpropData
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tconv_bench.peers import Peer, engine, holding, peer
from tconv_bench.problem import Problem


@cache
def _core() -> Any:
    return engine("openvino").Core()


@peer(
    "openvino",
    title="OpenVINO",
    source="OpenVINO ConvolutionBackpropData; oneDNN",
    color="#A6DBA0",
    marker=">",
    packages=("openvino",),
)
class OpenVino(Peer):
    """An infer request on tensors that share the arrays' memory."""

    def supports(self, problem: Problem) -> Literal[True] | str:
        """float32 only: a float64 model compiles, and computes in float32."""
        if problem.dtype == "float64":
            return "OpenVINO's CPU plugin takes float64 models and computes them in float32"
        if problem.dtype != "float32":
            return f"OpenVINO's CPU plugin has deconvolutions of floats only, and this problem is {problem.dtype}"
        return True

    def set_threads(self, threads: int) -> None:
        """Also loads the plugin's front."""
        super().set_threads(threads)
        _core()

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        """The compiled model."""
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        return _core().compile_model(_model(problem, weight, bias), "CPU", settings)

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        """A request on both arrays' own memory; ``share_outputs``, because it else copies the output once more."""
        tensor = engine("openvino").Tensor
        request = state.create_infer_request()
        request.set_input_tensor(tensor(x, shared_memory=True))
        request.set_output_tensor(tensor(out, shared_memory=True))
        return holding(partial(request.infer, share_outputs=True), x, out)


def _model(problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
    ops = engine("openvino.opset1")
    x = ops.parameter(problem.x_shape, np.dtype(problem.dtype).type, name="x")
    before, after = zip(*problem.padding)
    kind = ops.convolution_backprop_data
    if problem.groups > 1:
        kind = ops.group_convolution_backprop_data
        weight = weight.reshape(problem.groups, -1, *weight.shape[1:])
    node = kind(
        x,
        ops.constant(weight),
        strides=problem.stride,
        pads_begin=before,
        pads_end=after,
        dilations=problem.dilation,
        output_padding=problem.output_padding,
    )
    if bias is not None:
        node = ops.add(node, ops.constant(bias.reshape(1, -1, *(1,) * problem.ndim)))
    return engine("openvino").Model([node], [x], "conv_transpose")
