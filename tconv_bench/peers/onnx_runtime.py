"""ONNX Runtime on the CPU: a model of one ConvTranspose, its weights initializers, its output bound to the caller's array.

The model says operator set 11 and IR version 8, which every ONNX Runtime since 1.10 reads; later operator sets only add types.
All graph optimisations are on. The CPU kernel transposes the weights once when the session is made, then multiplies and
scatters (GEMM and col2im).

Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from numpy.typing import NDArray

from tconv_bench.peers import Peer, engine, holding, peer
from tconv_bench.problem import Problem

OPERATOR_SET = 11
IR_VERSION = 8
MODEL_BYTES = 2**31 - 2**16  # a serialised model ends at 2 GiB; the graph itself takes less than 64 KiB


@peer(
    "onnxruntime",
    title="ONNX Runtime",
    source="ONNX ConvTranspose; MLAS",
    color="#332288",
    marker="<",
    packages=("onnxruntime", "onnx"),
)
class OnnxRuntime(Peer):
    """An ``InferenceSession`` run through an IO binding."""

    def supports(self, problem: Problem) -> Literal[True] | str:
        """float32, and output_padding below the stride."""
        if problem.dtype != "float32":
            return f"ONNX Runtime's ConvTranspose computes float32 on the CPU, and this problem is {problem.dtype}"
        for extra, stride in zip(problem.output_padding, problem.stride):
            if extra >= stride:
                return f"ONNX Runtime takes output_padding below the stride only, but here it is {extra} at stride {stride}"
        weights = problem.itemsize * problem.c_in * (problem.c_out // problem.groups) * problem.taps
        if weights > MODEL_BYTES:
            return f"an ONNX model in memory ends at 2 GiB, but this problem's weights take {weights / 2**30:.1f}"
        return True

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        """The model and its session."""
        runtime = engine("onnxruntime")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return runtime.InferenceSession(_model(problem, weight, bias), options, providers=["CPUExecutionProvider"])

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        """The session on both arrays' own memory."""
        from_numpy = engine("onnxruntime").OrtValue.ortvalue_from_numpy
        binding = state.io_binding()
        binding.bind_ortvalue_input("x", from_numpy(x))
        binding.bind_ortvalue_output("out", from_numpy(out))
        return holding(partial(state.run_with_iobinding, binding), x, out)


def _model(problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> bytes:
    onnx = engine("onnx")
    constants = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    node = onnx.helper.make_node(
        "ConvTranspose",
        ["x", *constants],
        ["out"],
        kernel_shape=problem.kernel,
        strides=problem.stride,
        pads=[before for before, _ in problem.padding] + [after for _, after in problem.padding],
        output_padding=problem.output_padding,
        group=problem.groups,
        dilations=problem.dilation,
    )
    graph = onnx.helper.make_graph(
        [node],
        "conv_transpose",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, problem.x_shape)],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, problem.out_shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPERATOR_SET)
    model: bytes = onnx.helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset]).SerializeToString()
    return model
