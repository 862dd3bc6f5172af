"""``tconv_bench.upsample`` gives PyTorch's and ONNX Runtime's values, where these are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import upsample
from tests import upsampling as definition

both_alignments = pytest.mark.parametrize("aligned", [False, True])
CASES = [((2, 3, 5, 7), (2, 2)), ((1, 2, 9, 4), (3, 2)), ((2, 1, 1, 6), (4, 5)), ((1, 1, 30, 41), (2, 8))]


@pytest.fixture(scope="module")
def functional() -> Any:
    return pytest.importorskip("torch.nn.functional", reason="PyTorch is not installed", exc_type=ImportError)


def tensor(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(x.copy())


def normals(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def allowed(x: np.ndarray, scale: tuple[int, ...], cubic: bool, aligned: bool) -> np.ndarray:
    """Both sides' rounding, and that of the peer's coordinates in float32.

    A coordinate below the axis' size is wrong by three of its units at most (division, product, difference), and moves an
    output by that times the slope, at most 3 times the largest pixel per axis for either polynomial.
    """
    coordinates = sum(3 * 2.0**-24 * size for size in x.shape[-len(scale) :])
    largest = float(np.abs(x).max()) * 1.5 ** len(scale)
    return 2 * definition.interpolation_bound(x, scale, cubic, aligned) + 3 * coordinates * largest


@both_alignments
@pytest.mark.parametrize(("shape", "scale"), CASES)
def test_interpolation_is_pytorchs(functional: Any, shape: tuple[int, ...], scale: tuple[int, int], aligned: bool):
    x = normals(shape)
    for name, cubic in (("bilinear", False), ("bicubic", True)):
        theirs = functional.interpolate(tensor(x), scale_factor=scale, mode=name, align_corners=aligned).numpy()
        assert (np.abs(getattr(upsample, name)(x, scale, aligned) - theirs) <= allowed(x, scale, cubic, aligned)).all()


@both_alignments
def test_linear_and_trilinear_interpolation_is_pytorchs(functional: Any, aligned: bool):
    for name, shape, scale in (("linear", (2, 3, 17), (3,)), ("trilinear", (1, 2, 4, 3, 5), (2, 3, 4))):
        x = normals(shape)
        theirs = functional.interpolate(tensor(x), scale_factor=scale, mode=name, align_corners=aligned).numpy()
        assert (np.abs(upsample.bilinear(x, scale, aligned) - theirs) <= allowed(x, scale, False, aligned)).all()


@both_alignments
@pytest.mark.parametrize(("shape", "scale"), [*CASES, ((2, 3, 17), (3,)), ((1, 2, 4, 3, 5), (2, 3, 4))])
def test_interpolation_of_doubles_is_pytorchs(functional: Any, shape: tuple[int, ...], scale: tuple[int, ...], aligned: bool):
    """Where PyTorch computes coordinates in float64, too, nothing but rounding in float64 is left."""
    x = normals(shape).astype(np.float64)
    coordinates = sum(8 * 2.0**-53 * size for size in shape[-len(scale) :]) * float(np.abs(x).max()) * 1.5 ** len(scale)
    kinds = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[len(scale)]
    for kind in kinds:
        cubic = kind == "bicubic"
        theirs = functional.interpolate(tensor(x), scale_factor=scale, mode=kind, align_corners=aligned).numpy()
        ours = (upsample.bicubic if cubic else upsample.bilinear)(x, scale, aligned)
        bound = 2 * definition.interpolation_bound(x, scale, cubic, aligned) + 3 * coordinates
        assert theirs.dtype == ours.dtype == np.float64
        assert (np.abs(ours - theirs) <= bound).all()


def test_values_are_moved_as_pytorch_does(functional: Any):
    for shape, scale in ([(2, 12, 5, 7), 2], [(1, 18, 3, 4), 3]):
        x = normals(shape)
        assert_array_equal(upsample.nearest(x, scale), functional.interpolate(tensor(x), scale_factor=scale).numpy())
        assert_array_equal(upsample.pixel_shuffle(x, scale), functional.pixel_shuffle(tensor(x), scale).numpy())
    x = normals((2, 3, 4))
    assert_array_equal(upsample.nearest(x, (5,)), functional.interpolate(tensor(x), scale_factor=5).numpy())
    x = normals((1, 2, 3, 1, 5)).astype(np.float64)
    theirs = functional.interpolate(tensor(x), scale_factor=(2, 3, 4)).numpy()
    assert_array_equal(upsample.nearest(x, (2, 3, 4)), theirs)


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_other_dtypes_are_pooled_and_shuffled_as_pytorch_does(functional: Any, dtype: str):
    x = np.random.default_rng(2).integers(-9, 10, (2, 8, 7, 9)).astype(dtype)
    assert_array_equal(upsample.pixel_shuffle(x, 2), functional.pixel_shuffle(tensor(x), 2).numpy())
    values, indices = upsample.max_pool2d(x, 3, 2, 1)
    theirs = functional.max_pool2d(tensor(x), 3, 2, 1, return_indices=True)
    assert_array_equal(values, theirs[0].numpy())
    assert_array_equal(indices, theirs[1].numpy())
    if dtype == "int64":  # which PyTorch does not unpool
        return
    values, indices = upsample.max_pool2d(x, 2)
    back = functional.max_unpool2d(tensor(values), tensor(indices), 2, output_size=(7, 9)).numpy()
    assert_array_equal(upsample.max_unpool2d(values, indices, 2, output_size=(7, 9)), back)


@pytest.mark.slow
def test_images_of_bytes_are_pytorchs(functional: Any):
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 5), np.uint8)
    assert_array_equal(upsample.nearest(image, 3), functional.interpolate(tensor(image), scale_factor=3).numpy())
    theirs = functional.interpolate(tensor(image), scale_factor=2, mode="bilinear").numpy().astype(int)
    assert np.abs(upsample.bilinear(image, 2) - theirs).max() <= 1  # it rounds after each axis


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 1), (1, 1)), (5, 3, 2)]
)
def test_pooling_is_pytorchs(functional: Any, kernel: Any, stride: Any, padding: Any):
    x = np.random.default_rng(1).integers(-2, 3, (2, 3, 13, 16)).astype(np.float32)
    x[0, 1, ::4, ::3], x[1, 0, :5], x[1, 2] = np.nan, np.inf, -np.inf
    values, indices = upsample.max_pool2d(x, kernel, stride, padding)
    theirs = functional.max_pool2d(tensor(x), kernel, stride, padding, return_indices=True)
    assert_array_equal(values, theirs[0].numpy())
    assert_array_equal(indices, theirs[1].numpy())
    if kernel == stride:
        back = upsample.max_unpool2d(values, indices, kernel, stride, padding, output_size=(13, 16))
        assert_array_equal(back, functional.max_unpool2d(*theirs, kernel, stride, padding, output_size=(13, 16)).numpy())


def onnx_resize(x: np.ndarray, scale: tuple[int, ...], **attributes: Any) -> np.ndarray:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed", exc_type=ImportError)
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed", exc_type=ImportError)
    from onnx import TensorProto, helper

    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    factors = [1.0] * (x.ndim - len(scale)) + [float(s) for s in scale]
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [x.ndim], factors)
    shapes = {"x": x.shape, "y": [round(i * f) for i, f in zip(x.shape, factors)]}
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph([node], "resize", [given], [made], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, {"x": x})[0]


@both_alignments
@pytest.mark.parametrize(("shape", "scale"), CASES[:2])
def test_interpolation_is_onnx_resize(shape: tuple[int, ...], scale: tuple[int, int], aligned: bool):
    x, place = normals(shape), "align_corners" if aligned else "half_pixel"
    theirs = onnx_resize(x, scale, mode="linear", coordinate_transformation_mode=place)
    assert (np.abs(upsample.bilinear(x, scale, aligned) - theirs) <= allowed(x, scale, False, aligned)).all()
    theirs = onnx_resize(x, scale, mode="cubic", coordinate_transformation_mode=place, cubic_coeff_a=-0.75)
    assert (np.abs(upsample.bicubic(x, scale, aligned) - theirs) <= allowed(x, scale, True, aligned)).all()


def test_nearest_is_onnx_resize():
    for shape, scale in CASES:
        x = normals(shape)
        assert_array_equal(upsample.nearest(x, scale), onnx_resize(x, scale, mode="nearest"))
