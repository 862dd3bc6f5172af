"""Problem: the arithmetic against brute force, the text form there and back, and validation."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tconv_bench import Problem, output_shape
from tests.problems import PROBLEMS


def stamps(problem: Problem) -> list[tuple[int, ...]]:
    """Output pixel of every (input pixel, tap) pair of one channel pair, cropped or not."""
    pixels = product(*map(range, problem.in_size))
    return [
        tuple(p * s + t * d - b for p, t, s, d, (b, _) in zip(i, k, problem.stride, problem.dilation, problem.padding))
        for i in pixels
        for k in product(*map(range, problem.kernel))
    ]


@pytest.mark.parametrize("problem", PROBLEMS[::3], ids=str)
def test_flops_count_the_products_that_land_in_the_output(problem: Problem):
    landed = sum(all(0 <= q < size for q, size in zip(pixel, problem.out_size)) for pixel in stamps(problem))
    assert problem.meetings == landed
    assert problem.flops == 2 * problem.batch * problem.c_in * (problem.c_out // problem.groups) * landed


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_text_form_there_and_back(problem: Problem):
    assert Problem.parse(str(problem)) == problem
    assert "\n" not in str(problem)


def test_the_text_form_is_the_documented_one():
    problem = Problem(16, 32, (128, 256), 64, (3, 5), (2, 3), (1, (2, 0)), (1, 0), 4, (2, 1), "float64")
    assert str(problem) == "n16_ci32_i128x256_co64_k3x5_s2x3_p1x2:0_op1x0_g4_d2x1_float64"
    assert str(Problem(1, 512, (4, 4), 256, 4, stride=2, padding=1)) == "n1_ci512_i4x4_co256_k4x4_s2x2_p1x1"
    assert Problem.parse("ci2_co3_k4_i5x6_s2") == Problem(1, 2, (5, 6), 3, 4, stride=2)
    assert Problem.parse(" co3_ci2_k4_i5_p1:2 ") == Problem(1, 2, (5,), 3, 4, padding=((1, 2),))


def test_least_bytes():
    # x 512*16, weight 512*256*16, out 256*64 elements of 4 bytes
    assert Problem.parse("n1_ci512_i4x4_co256_k4x4_s2x2_p1x1").min_bytes == 4 * (8192 + 2097152 + 16384)
    assert Problem.parse("n1_ci512_i4x4_co256_k4x4_s2x2_p1x1_float64").min_bytes == 8 * (8192 + 2097152 + 16384)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        # Dumoulin & Visin, section 4: relations 8-14 with their example figures
        ((2, 3), 4),  # no padding, unit strides: 4.1
        ((6, 4, 1, 2), 5),  # padding, unit strides: 4.2
        ((5, 3, 1, 1), 5),  # half padding: 4.3
        ((7, 3, 1, 2), 5),  # full padding: 4.3
        ((2, 3, 2), 5),  # no padding, strides: 4.5
        ((3, 3, 2, 1), 5),  # padding, strides: 4.6
        ((3, 3, 2, 1, 1), 6),  # padding, strides, output padding: 4.6
        ((3, 3, 2, ((1, 0),), 1, 2), 9),
        (((3, 4), (3, 2), 2, (1, 0)), (5, 8)),
        ((10**30, 3, 10**20), 10**50 - 10**20 + 3),
    ],
)
def test_output_shape(arguments: tuple[Any, ...], size: Any):
    assert output_shape(*arguments) == size


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3), ValueError, "in_size is 0, but must be >= 1"),
        ((3, 0), ValueError, "kernel is 0, but must be >= 1"),
        ((3, 3, 0), ValueError, "stride is 0, but must be >= 1"),
        ((3, 3, 1, 0, 0, 0), ValueError, "dilation is 0, but must be >= 1"),
        ((3, 3, 1, 3), ValueError, r"the output would be empty: its spatial size is \(-1,\)"),
        ((3, 3, 2, 0, 2), ValueError, r"output_padding is 2, but must be smaller than the stride \(2\) or the dilation \(1\)"),
        ((3.0, 3), TypeError, r"in_size is 3.0 \(float\), but must be an integer >= 1"),
        ((3, 3, 1, (1, 1)), ValueError, r"padding is \(1, 1\): 2 entries"),
    ],
)
def test_output_shape_refuses(arguments: tuple[Any, ...], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        output_shape(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1_ci2_i4_co3_k3_z4", "unknown token 'z4'; allowed are a dtype"),
        ("n1_ci2_i4_co3_k3_float8", "unknown token 'float8'"),
        ("", "unknown token ''"),
        ("n1_ci2_i4_k3", r"missing c_out \(co...\)"),
        ("n1_ci2_i4_co3_k3_k4", "'k4' gives kernel a second time"),
        ("n1_ci2_i4_co3_k3x", "'k3x' is not of the form k4 or ...4x4"),
        ("n1_ci2x2_i4_co3_k3", "'ci2x2' must hold one number"),
        ("n1_ci2_i4_co3_k3:1", "'k3:1' is not of the form"),
        ("n1_ci2_i4x4_co3_k3x3x3", r"kernel is \(3, 3, 3\): 3 values"),
        ("n1_ci2_i4x4x4x4_co3_k3", r"in_size is \(4, 4, 4, 4\), but must hold 1, 2 or 3 spatial sizes"),
        ("n1_ci2_i4_co3_k3_p9", "the output would be empty"),
    ],
)
def test_parse_names_the_token_at_fault(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        Problem.parse(text)


def test_dtypes_that_are_not_computed_in():
    with pytest.raises(TypeError, match="dtype is int16, but must be one of float32, float64, int64, float16"):
        Problem(1, 1, (2,), 1, 1, dtype="int16")
