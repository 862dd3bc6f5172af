"""CUDA without a GPU: kernels in Numba's simulator, their code for four processors, and what is said where there is none."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tconv_bench
from tconv_bench import gpu, jit_cuda, reference, registry
from tconv_bench.jit_cuda import Kernel
from tconv_bench.variants import _implicit_gemm, _tiles
from tests.problems import PROBLEMS, integer_data, poisoned

ROOT = Path(__file__).parent.parent
ONES = np.ones((1, 1, 2))
CAPABILITIES = [(8, 0), (8, 9), (9, 0), (10, 0)]
KERNELS = sorted(
    {kernel for name in registry.methods("cuda") for kernel in registry.get(name, "cuda").kernels},  # type: ignore[attr-defined]
    key=lambda kernel: kernel.name,
)
#: Most registers of a thread in float32 and float64: fewer than 65536 / threads, so that blocks can share a processor.
REGISTERS = {
    "add_parts": (48, 48),
    "fill": (32, 32),
    "fill_csr": (72, 72),
    "gather": (80, 80),
    "multiply 128x128x8x8x8x8x4": (128, 255),
    "multiply 128x16x8x8x4x4x8": (128, 168),
    "multiply 128x32x8x8x4x8x4": (128, 168),
    "multiply 128x64x16x8x8x8x4": (128, 255),
    "multiply 16x128x8x4x4x8x4": (128, 168),
    "multiply 16x256x8x4x8x8x4": (160, 255),
    "multiply 32x128x8x8x8x8x4": (200, 255),
    "multiply 64x128x8x8x8x8x4": (128, 255),
    "multiply 64x64x8x8x4x8x4": (128, 168),
    "multiply 64x64x8x8x8x8x4": (128, 255),
    "overlap_add": (64, 64),
    "pack": (40, 40),
    "spmm": (48, 48),
    "stamp 0": (48, 48),
    "stamp 1": (48, 48),
    "stretch": (48, 48),
}
SHARED_BYTES = 48 * 1024
PARTS = ("numba_cuda", "cuda.core", "nvidia")


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


needs_compiler = pytest.mark.skipif(
    not all(map(_installed, PARTS)),
    reason="the compiler for CUDA is not installed, 500 MB of wheels: pip install -e '.[cuda13]' (no GPU and no driver needed)",
)


def python(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, **environment}
    )


def simulate(*options: str) -> None:
    done = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests/simulated_cuda.py", NUMBA_ENABLE_CUDASIM="1"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_kernels_are_right_in_the_simulator():
    simulate()


@pytest.mark.slow
def test_kernels_are_right_in_the_simulator_on_more_problems():
    simulate("-m", "slow")


def test_importing_the_package_loads_nothing_of_cuda():
    done = python(
        "-c", "import sys, tconv_bench; tconv_bench.methods('cuda'); print([m for m in sys.modules if 'numba.cuda' in m])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(_installed("numba_cuda"), reason="numba-cuda is installed, so nothing is missing but a GPU")
def test_without_numba_cuda_the_message_says_what_to_install():
    sentence = r"device 'cuda' needs the numba-cuda package, which is not installed: pip install 'tconv-bench\[cuda13\]'"
    with pytest.raises(RuntimeError, match=sentence):
        tconv_bench.conv_transpose1d(ONES, ONES, device="cuda")
    with pytest.raises(RuntimeError, match=sentence):
        tconv_bench.plan(ONES, (1, 2), device="cuda")


@pytest.mark.parametrize("problem", ["n1_ci2_i3_co2_k2_int64", "n40000_ci1_i256x256_co1_k1"])
def test_what_is_not_served_is_said(problem: str):
    for name in registry.methods("cuda"):
        answer = registry.get(name, "cuda").supports(tconv_bench.Problem.parse(problem))
        assert re.search("use device='cpu'|split the batch", str(answer))


def test_twins_share_title_and_colour():
    for name in set(registry.methods("cuda")) & set(registry.methods("cpu")):
        twin, entry = registry.get(name), registry.get(name, "cuda")
        assert (entry.title, entry.color, entry.marker, entry.source) == (twin.title, twin.color, twin.marker, twin.source)
        assert type(entry).__module__ == type(twin).__module__


def test_a_name_without_a_twin_needs_title_and_source():
    with pytest.raises(
        ValueError, match="variant 'alone' on cuda has no title or source, and no twin on the CPU that has them"
    ):
        registry.variant("alone", device="cuda")(registry.Variant)


def test_every_kernel_has_its_bounds():
    assert {kernel.name for kernel in KERNELS} == set(REGISTERS)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_kernel_compiles_without_a_spill(kernel: Kernel, dtype: str, capability: tuple[int, int]):
    check_resources(kernel, dtype, capability)


@needs_compiler
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_kernel_compiles_for_one_processor(kernel: Kernel):
    check_resources(kernel, "float32", (9, 0))


def check_resources(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> None:
    used = jit_cuda.resources(kernel, dtype, capability)
    assert used.spilled_bytes == 0
    assert used.stack_bytes == 0
    assert used.registers <= REGISTERS[kernel.name][dtype == "float64"]
    assert used.registers * kernel.threads * max(1, kernel.resident if dtype != "float64" else 1) <= 65536
    assert used.shared_bytes <= SHARED_BYTES


@needs_compiler
def test_declared_types_are_those_that_a_launch_finds():
    from numba.cuda.typing.typeof import Purpose, typeof

    problem = tconv_bench.Problem.parse("n1_ci1_i2_co1_k2")
    declared = jit_cuda.Kernel(print, "geometry i64").types("float32")  # type: ignore[arg-type]
    assert declared == tuple(typeof(value, Purpose.argument) for value in (jit_cuda.sizes(problem.geometry), 5))


class Capsules:
    """An array that speaks DLPack alone."""

    def __init__(self, array: Any):
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        device, ordinal = self.array.__dlpack_device__()
        return int(device), int(ordinal)


@needs_compiler
def test_dlpack_is_read_where_it_lies():
    array = np.arange(6.0).reshape(2, 3)[:, ::2]
    found = gpu._interface(Capsules(array), "x")
    assert found["data"] == (array.ctypes.data, False)
    assert (found["shape"], found["strides"], found["typestr"]) == (array.shape, array.strides, "<f8")
    with pytest.raises(TypeError, match="x can't be read as a CUDA array"):
        gpu._interface(Capsules(None), "x")


@pytest.mark.skipif(bool(gpu.missing()), reason=gpu.missing())
@pytest.mark.parametrize("method", registry.methods("cuda"))
def test_every_variant_on_every_problem_on_this_gpu(method: str):
    for problem in PROBLEMS:
        if problem.dtype == "int64" or registry.get(method, "cuda").supports(problem) is not True:
            continue
        x, weight, bias = integer_data(problem)
        function = getattr(tconv_bench, f"conv_transpose{problem.ndim}d")
        sizes = problem.stride, problem.padding, problem.output_padding, problem.groups, problem.dilation
        result = function(x, weight, bias, *sizes, device="cuda", method=method, out=poisoned(problem))
        expected = reference.conv_transpose(problem, x, weight, bias).astype(problem.dtype)
        np.testing.assert_array_equal(result, expected, err_msg=str(problem))


def loops(ptx: str) -> list[list[str]]:
    """The lines between a label and a branch back to it."""
    lines = ptx.splitlines()
    labels = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    branches = [(at, match[1]) for at, line in enumerate(lines) if (match := re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line))]
    return [lines[labels[to] : at + 1] for at, to in branches if labels[to] < at]


def count(pattern: str, lines: list[str]) -> int:
    return sum(bool(re.search(pattern, line)) for line in lines)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tile", dict.fromkeys((*_tiles.SINGLE, *_tiles.DOUBLE)), ids=str)
def test_the_tiles_steps_load_128_bits_and_divide_nothing(tile: _tiles.Tile, dtype: str):
    ptx = jit_cuda.ptx(_implicit_gemm.kernel(tile), dtype, (9, 0))
    found = loops(ptx)
    steps = max(found, key=lambda lines: count(r"\bfma\.rn\.f", lines) * 1000 + len(lines))  # the outermost with products
    inner = min((lines for lines in found if count(r"\bfma\.rn\.f", lines)), key=len)
    vector = r"\.v4\.[fbu]32" if dtype == "float32" else r"\.v2\.[fbu]64"
    each = 1 if dtype == "float32" else 2
    assert count(r"\bfma\.rn\.f", inner) >= tile.TM * tile.TN
    assert count(rf"ld\.shared{vector}", inner) >= each * (tile.TM + tile.TN) // 4
    assert count(rf"ld\.global{vector}", steps) >= each
    assert count(rf"st\.shared{vector}", steps) >= each
    assert count("bar.sync", steps) == 1
    assert count(r"\b(div|rem)\.", steps) == 0
    assert ".local" not in ptx
