"""``tconv_bench.upsample`` gives what the ONNX operators are defined to give: by the definition's own code and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import upsample
from tests import upsampling as definition
from tests.test_upsample_peers import allowed

onnx = pytest.importorskip("onnx", reason="onnx is not installed", exc_type=ImportError)
both_alignments = pytest.mark.parametrize("aligned", [False, True])
both_kinds = pytest.mark.parametrize("cubic", [False, True])
OPSET = 18
# odd and even sizes, single pixels, every scale of layers, one to three axes
LINEAR = [
    ((2, 3, 17), (3,)), ((1, 1, 1), (4,)), ((1, 2, 8), (2,)),
    ((2, 3, 5, 7), (2, 2)), ((1, 2, 9, 4), (3, 2)), ((2, 1, 1, 6), (4, 5)), ((1, 1, 3, 1), (8, 1)),
    ((1, 2, 4, 3, 5), (2, 3, 4)), ((2, 1, 1, 2, 3), (2, 1, 2)),
]  # fmt: skip
FLAT = [case for case in LINEAR if len(case[1]) == 2]


def model(operator: str, inputs: dict[str, np.ndarray], count: int, **attributes: Any) -> Any:
    """One node; ``""`` in place of an optional input that is left out is written as a None array's name."""
    helper = onnx.helper
    outputs = [f"y{number}" for number in range(count)]
    node = helper.make_node(operator, ["" if name.startswith("|") else name for name in inputs], outputs, **attributes)
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
        if not name.startswith("|")
    ]
    of_kind = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    kinds = [of_kind, onnx.TensorProto.INT64]
    made = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outputs, kinds)]
    graph = helper.make_graph([node], operator, given, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def by_definition(operator: str, inputs: dict[str, np.ndarray], count: int = 1, **attributes: Any) -> Sequence[np.ndarray]:
    """The NumPy code that onnx ships as the meaning of its operators."""
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(model(operator, inputs, count, **attributes))
    return session.run(None, {name: array for name, array in inputs.items() if not name.startswith("|")})


def by_runtime(operator: str, inputs: dict[str, np.ndarray], count: int = 1, **attributes: Any) -> Sequence[np.ndarray]:
    """ONNX Runtime on one thread."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed", exc_type=ImportError)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model(operator, inputs, count, **attributes).SerializeToString()
    session = runtime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return session.run(None, {name: array for name, array in inputs.items() if not name.startswith("|")})


both_engines = pytest.mark.parametrize("run", [by_definition, by_runtime], ids=["definition", "runtime"])


def resize(run: Any, x: np.ndarray, scale: tuple[int, ...], **attributes: Any) -> np.ndarray:
    factors = np.array([1] * (x.ndim - len(scale)) + list(scale), np.float32)
    (y,) = run("Resize", {"x": x, "|roi": np.zeros(0, np.float32), "scales": factors}, **attributes)
    return y


def normals(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(6).standard_normal(shape).astype(dtype)


def whole(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 100, shape).astype(dtype)


@both_alignments
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "scale"), LINEAR)
def test_linear_is_the_definition(shape: tuple[int, ...], scale: tuple[int, ...], dtype: str, aligned: bool):
    x, place = normals(shape, dtype), "align_corners" if aligned else "half_pixel"
    theirs = resize(by_definition, x, scale, mode="linear", coordinate_transformation_mode=place)
    excess = np.abs(upsample.bilinear(x, scale, aligned) - theirs) - bound(x, scale, False, aligned)
    assert theirs.dtype == dtype
    assert excess.max() <= 0


@both_alignments
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "scale"), LINEAR)
def test_cubic_is_the_definition(shape: tuple[int, ...], scale: tuple[int, ...], dtype: str, aligned: bool):
    x, place = normals(shape, dtype), "align_corners" if aligned else "half_pixel"
    theirs = resize(by_definition, x, scale, mode="cubic", coordinate_transformation_mode=place, cubic_coeff_a=-0.75)
    excess = np.abs(upsample.bicubic(x, scale, aligned) - theirs) - bound(x, scale, True, aligned)
    assert excess.max() <= 0


def bound(x: np.ndarray, scale: tuple[int, ...], cubic: bool, aligned: bool) -> np.ndarray:
    """Ours, and the definition's, whose cubic coordinates are float32."""
    coordinates = sum((3 * 2.0**-24 if cubic else 8 * 2.0**-53) * size for size in x.shape[-len(scale) :])
    largest = float(np.abs(x).max()) * 1.5 ** len(scale)
    return 2 * definition.interpolation_bound(x, scale, cubic, aligned) + 3 * coordinates * largest


@both_alignments
@both_kinds
@pytest.mark.parametrize(("shape", "scale"), FLAT)
def test_interpolation_is_the_runtimes(shape: tuple[int, ...], scale: tuple[int, ...], cubic: bool, aligned: bool):
    x, place = normals(shape), "align_corners" if aligned else "half_pixel"
    mode = {"mode": "cubic", "cubic_coeff_a": -0.75} if cubic else {"mode": "linear"}
    theirs = resize(by_runtime, x, scale, coordinate_transformation_mode=place, **mode)
    function = upsample.bicubic if cubic else upsample.bilinear
    assert (np.abs(function(x, scale, aligned) - theirs) <= allowed(x, scale, cubic, aligned)).all()


@both_alignments
@pytest.mark.parametrize(("shape", "scale"), [case for case in LINEAR if len(case[1]) != 2 and case[0][0] == 1])
def test_linear_and_trilinear_are_the_runtimes(shape: tuple[int, ...], scale: tuple[int, ...], aligned: bool):
    x, place = normals(shape), "align_corners" if aligned else "half_pixel"
    theirs = resize(by_runtime, x, scale, mode="linear", coordinate_transformation_mode=place)
    assert (np.abs(upsample.bilinear(x, scale, aligned) - theirs) <= allowed(x, scale, False, aligned)).all()


@both_engines
@pytest.mark.parametrize(("dtype", "shape", "scale"), [
    ("float32", (2, 3, 17), (3,)), ("uint8", (1, 2, 5, 7), (2, 3)), ("int32", (2, 1, 1, 6), (4, 5)),
    ("float64", (1, 2, 9, 4), (8, 2)), ("float32", (1, 2, 4, 3, 5), (2, 3, 4)), ("int8", (2, 1, 3, 1), (1, 6)),
])  # fmt: skip
def test_nearest_is_resize(run: Any, dtype: str, shape: tuple[int, ...], scale: tuple[int, ...]):
    if run is by_runtime and dtype == "float64":
        pytest.skip("ONNX Runtime has no Resize of float64")
    x = whole(shape, dtype)
    assert_array_equal(upsample.nearest(x, scale), resize(run, x, scale, mode="nearest"))


@both_engines
@pytest.mark.parametrize(
    ("scale", "shape", "dtype"), [(2, (2, 12, 5, 7), "float32"), (3, (1, 18, 3, 4), "float32"), (4, (1, 16, 1, 5), "float64")]
)
def test_pixel_shuffle_is_depth_to_space(run: Any, scale: int, shape: tuple[int, ...], dtype: str):
    x = whole(shape, dtype)
    (theirs,) = run("DepthToSpace", {"x": x}, blocksize=scale, mode="CRD")
    assert_array_equal(upsample.pixel_shuffle(x, scale), theirs)


POOLS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 1), (1, 1)), (5, 3, 2), ((1, 4), (1, 2), (0, 2))]


def pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, tuple) else [value, value]


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_pooling_is_max_pool(kernel: Any, stride: Any, padding: Any, dtype: str):
    x = np.random.default_rng(1).integers(0, 6, (2, 3, 13, 16)).astype(dtype)
    attributes = {"kernel_shape": pair(kernel), "strides": pair(stride), "pads": pair(padding) * 2}
    values, indices = upsample.max_pool2d(x, kernel, stride, padding)
    theirs, places = by_runtime("MaxPool", {"x": x}, 2, **attributes)
    assert_array_equal(values, theirs)
    # ONNX counts through the whole tensor, PyTorch and this project within each plane
    assert_array_equal(indices + 13 * 16 * np.arange(6).reshape(2, 3, 1, 1), places)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(2, 2, 0, (12, 16)), (3, 3, 0, (12, 15)), ((1, 2), (1, 2), (0, 0), (12, 17))]
)
def test_unpooling_is_max_unpool(kernel: Any, stride: Any, padding: Any, size: tuple[int, int]):
    x = normals((2, 3, *size))
    values, indices = upsample.max_pool2d(x, kernel, stride, padding)
    planes = size[0] * size[1] * np.arange(6).reshape(2, 3, 1, 1)
    inputs = {"x": values, "indices": indices + planes, "shape": np.array(x.shape)}
    (theirs,) = by_runtime("MaxUnpool", inputs, kernel_shape=pair(kernel), strides=pair(stride), pads=pair(padding) * 2)
    assert_array_equal(upsample.max_unpool2d(values, indices, kernel, stride, padding, output_size=size), theirs)


@both_engines
@pytest.mark.parametrize(
    ("kernel", "scale"), [((4, 4), (2, 2)), ((3, 3), (2, 2)), ((2, 5), (2, 3)), ((3,), (3,)), ((2, 2, 3), (2, 1, 3))]
)
def test_conv_transpose_is_conv_transpose(run: Any, kernel: tuple[int, ...], scale: tuple[int, ...]):
    x, weight = whole((1, 2, *(4, 5, 3)[: len(scale)]), "float32") - 50, whole((2, 3, *kernel), "float32") - 50
    more = [k - s for k, s in zip(kernel, scale)]
    pads = [total - total // 2 for total in more] + [total // 2 for total in more]
    (theirs,) = run("ConvTranspose", {"x": x, "w": weight}, kernel_shape=list(kernel), strides=list(scale), pads=pads)
    assert_array_equal(upsample.conv_transpose(x, weight, scale=scale), theirs)
