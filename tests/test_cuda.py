"""CUDA without a GPU: kernels in Numba's simulator, their code for four processors, and what is said where there is none."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
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
#: Most registers of a thread in float32 or float16, and in float64; 0 where a tile is not for these. 128 where a tile asks for
#: as many blocks; else at least 4 more than was seen with CUDA 12.9 and 13.0 on the four capabilities, as compilers differ, and
#: a multiple of eight, in which a processor hands them out.
REGISTERS = {
    "add_parts": (48, 48),
    "fill": (32, 32),
    "fill_csr": (64, 64),
    "gather": (80, 80),
    "multiply 128x128x8x8x8x8x4": (128, 0),
    "multiply 128x16x8x8x4x4x8": (104, 176),
    "multiply 128x32x8x8x4x8x4": (104, 0),
    "multiply 128x64x8x8x8x8x4": (128, 0),
    "multiply 16x128x8x4x4x8x4": (0, 136),
    "multiply 16x256x8x4x8x8x4": (136, 0),
    "multiply 32x128x8x8x8x8x4": (168, 0),
    "multiply 4x128x8x4x4x32x1": (136, 0),
    "multiply 64x128x8x8x8x8x4": (128, 0),
    "multiply 64x64x8x8x4x8x4": (0, 152),
    "multiply 64x64x8x8x8x8x4": (144, 0),
    "overlap_add": (64, 64),
    "pack": (48, 48),
    "spmm": (48, 56),
    "stamp 0": (48, 48),
    "stamp 1": (48, 40),
    "stretch": (48, 48),
}
#: Least share of multiply-adds among the instructions of a step, in float32 on compute capability 9.0; with CUDA 12.9 it is
#: up to 1.5 % below 13.0's, in one tile 1 % above.
SHARES = {
    (128, 128): 0.84, (128, 64): 0.84, (64, 128): 0.79, (64, 64): 0.79, (32, 128): 0.76, (128, 32): 0.77, (128, 16): 0.76,
    (16, 256): 0.62, (4, 128): 0.35,
}  # fmt: skip
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
@pytest.mark.parametrize("method", registry.methods("cuda"))
def test_kernels_are_right_in_the_simulator_on_more_problems(method: str):
    simulate("-m", "slow", "-k", f"[{method}-", "--timeout=300")


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
    assert {kernel.name.removesuffix(" wide") for kernel in KERNELS} == set(REGISTERS)


def compiled(dtypes: tuple[str, ...]) -> list[tuple[Kernel, str]]:
    """Kernels with the dtypes that they are launched for; wide ones differ from the others in float16 alone."""
    pairs = [(kernel, dtype) for dtype in dtypes for kernel in KERNELS if dtype == "float16" or not kernel.wide]
    return [(kernel, dtype) for kernel, dtype in pairs if most_registers(kernel, dtype)]


def most_registers(kernel: Kernel, dtype: str) -> int:
    return REGISTERS[kernel.name.removesuffix(" wide")][dtype == "float64"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize(
    ("kernel", "dtype"), compiled(("float16", "float32", "float64")), ids=lambda value: getattr(value, "name", value)
)
def test_every_kernel_compiles_without_a_spill(kernel: Kernel, dtype: str, capability: tuple[int, int]):
    check_resources(kernel, dtype, capability)


@needs_compiler
@pytest.mark.parametrize(("kernel", "dtype"), compiled(("float32",)), ids=lambda value: getattr(value, "name", value))
def test_every_kernel_compiles_for_one_processor(kernel: Kernel, dtype: str):
    check_resources(kernel, dtype, (9, 0))


def check_resources(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> None:
    used = jit_cuda.resources(kernel, dtype, capability)
    assert used.spilled_bytes == 0
    assert used.stack_bytes == 0
    assert used.registers <= most_registers(kernel, dtype)
    threads, blocks = kernel.launch_bounds(dtype) or (kernel.threads, 1)
    assert used.registers * threads * blocks <= 65536
    assert used.shared_bytes <= SHARED_BYTES


@needs_compiler
def test_declared_types_are_those_that_a_launch_finds():
    from numba.cuda.typing.typeof import Purpose, typeof

    problem = tconv_bench.Problem.parse("n1_ci1_i2_co1_k2")
    declared = jit_cuda.Kernel(print, "geometry i64").types("float32")  # type: ignore[arg-type]
    assert declared == tuple(typeof(value, Purpose.argument) for value in (jit_cuda.sizes(problem.geometry), 5))


@needs_compiler
def test_a_kernel_is_linked_where_it_is_compiled(monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []

    class Definition:
        def bind(self) -> None:
            done.append("linked")

    def jit(signature: Any, **options: Any) -> Any:
        return lambda function: done.append("compiled") or SimpleNamespace(overloads={signature: Definition()})

    monkeypatch.setattr(jit_cuda, "numba_cuda", lambda: SimpleNamespace(jit=jit))
    before, kernel = jit_cuda.compilations(), Kernel(lambda values: None, "T[]")
    assert jit_cuda._compiled(kernel, "float32") is jit_cuda._compiled(kernel, "float32")
    assert done == ["compiled", "linked"]
    assert jit_cuda.compilations() == before + 1


@needs_compiler
def test_few_blocks_are_no_warning_and_numbas_setting_stays(monkeypatch: pytest.MonkeyPatch):
    from numba.cuda.dispatcher import config

    monkeypatch.setattr(config, "CUDA_LOW_OCCUPANCY_WARNINGS", 1)
    seen = []

    class Compiled:
        def __getitem__(self, grid: tuple[Any, ...]) -> Any:
            seen.append((grid, config.CUDA_LOW_OCCUPANCY_WARNINGS))
            return lambda *args: seen.append(args)

    monkeypatch.setattr(jit_cuda, "_compiled", lambda kernel, dtype: Compiled())
    kernel = Kernel(print, "i64", threads=64)  # type: ignore[arg-type]
    kernel.launch("float32", 3, 0, 5)
    kernel.stride_over("float32", 65, 0, 6)
    assert seen == [((3, 64, 0), 0), (5,), ((2, 64, 0), 0), (6,)]
    assert config.CUDA_LOW_OCCUPANCY_WARNINGS == 1


class Capsules:
    """An array that speaks DLPack alone."""

    def __init__(self, array: Any):
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        device, ordinal = self.array.__dlpack_device__()
        return int(device), int(ordinal)


def test_a_bound_stream_of_numbas_is_passed_on_as_a_number():
    class Handle:
        def __int__(self) -> int:
            return 77

    class Array:
        __cuda_ndarray__ = True

        def __init__(self, stream: Any):
            self.stream = stream

    class Stream:
        handle = Handle()

    for stream, number in ((Stream(), 77), (0, 0)):
        found = gpu._library(Array(stream)).stream(Array(stream))
        assert (type(found), found) == (int, number)


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


TILES = [("float32", tile) for tile in _tiles.SINGLE] + [("float64", tile) for tile in _tiles.DOUBLE]


#: Tails of rows, pixels and channels, several blocks of each, empty phases, groups, crops; 1-D to 3-D.
RAGGED = [
    "n3_ci37_i9x11_co150_k4x4_s2x2_p1x1", "n2_ci5_i2x3_co17_k3x2_s2x1_p1x0", "n1_ci70_i2x2_co67_k3x3_s2x2_p1x1",
    "n1_ci6_i5x7_co6_k4x2_s2x2_p3:1x0_g2", "n2_ci3_i30_co3_k5_s2_p3_d3", "n1_ci3_i3_co5_k1_s3_op1",
    "n1_ci9_i3x4x5_co2_k2x3x2_s2x2x2_p0x1x1",
]  # fmt: skip


def check_tile(tile: _tiles.Tile, problem: tconv_bench.Problem) -> None:
    """Every way to cut a problem, its sums in one part and in three, with a tile that may fit it badly."""
    cuda = jit_cuda.numba_cuda()
    x, weight, bias = integer_data(problem)
    expected = reference.conv_transpose(problem, x, weight, bias)
    for cut in _tiles.cuts(problem):
        for splits in (1, 3):
            found = _tiles.tabulate(problem, cut, tile, splits, 0.0)
            out = cuda.to_device(poisoned(problem))
            state = _implicit_gemm.prepare(problem, cuda.to_device(weight), cuda.to_device(bias), 0, found)
            _implicit_gemm.run(state, cuda.to_device(x.reshape(-1)), out.reshape(out.size), 0)
            np.testing.assert_array_equal(out.copy_to_host(), expected, err_msg=f"{problem}, {cut}, {splits} parts")


@pytest.mark.skipif(bool(gpu.missing()), reason=gpu.missing())
@pytest.mark.parametrize(("dtype", "tile"), TILES, ids=str)
def test_every_tile_on_this_gpu(tile: _tiles.Tile, dtype: str):
    for text in RAGGED:
        check_tile(tile, tconv_bench.Problem.parse(f"{text}_{dtype}"))


@needs_compiler
@pytest.mark.parametrize(("dtype", "tile"), TILES, ids=str)
def test_a_step_reads_128_bits_at_a_time_and_divides_nothing(tile: _tiles.Tile, dtype: str):
    ptx = jit_cuda.ptx(_implicit_gemm.kernel(tile), dtype, (9, 0))
    products, constants = tile.BK * tile.TM * tile.TN, tile.constants
    steps = min((lines for lines in loops(ptx) if count(r"\bfma\.rn\.f", lines) >= products), key=len)
    vector, each = (r"\.v4\.[fbu]32", 1) if dtype == "float32" else (r"\.v2\.[fbu]64", 2)
    assert count(r"\bfma\.rn\.f", steps) == products
    assert count(rf"ld\.shared{vector}", steps) == each * tile.BK * (tile.TM + tile.TN) // 4 == count(r"ld\.shared", steps)
    assert count(rf"ld\.global{vector}", steps) == each * constants["A_LOADS"]
    assert count(rf"st\.shared{vector}", steps) == each * constants["A_LOADS"]
    assert count(r"@p ld\.global\.nc", steps) == constants["B_VALUES"]
    assert count("bar.sync", steps) == 1
    assert count(r"\b(div|rem)\.", steps) == 0
    assert ".local" not in ptx


@needs_compiler
@pytest.mark.parametrize("tile", _tiles.SINGLE, ids=str)
def test_most_instructions_of_a_step_are_multiply_adds(tile: _tiles.Tile, tmp_path: Path):
    from cuda.pathfinder import find_nvidia_binary_utility

    disassembler = shutil.which("nvdisasm") or find_nvidia_binary_utility("nvdisasm")
    if disassembler is None:
        pytest.skip("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
    code = tmp_path / "kernel.cubin"
    code.write_bytes(jit_cuda.machine_code(_implicit_gemm.kernel(tile), "float32", (9, 0)))
    done = subprocess.run([disassembler, "-c", str(code)], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if re.search(r"^\.L_x_\d+:|/\*[0-9a-f]{4,}\*/", line.strip())]
    found = machine_loops(lines)
    products = tile.BK * tile.TM * tile.TN
    steps = min((part for part in found if count("FFMA", part) >= products), key=len)
    often = without_the_next_tap(steps)
    assert count("FFMA", often) == products
    assert count(r"LDS\.128", often) == tile.BK * (tile.TM + tile.TN) // 4 == count("LDS", often)
    assert count("LDG", often) == tile.constants["A_LOADS"] + tile.constants["B_VALUES"]
    assert count(r"LDL|STL|MUFU|I2F", steps) == 0
    share = products / count(r"/\*[0-9a-f]{4,}\*/ +\S", often)
    assert share >= SHARES[tile.BM, tile.BN]


def machine_loops(lines: list[str]) -> list[list[str]]:
    """The lines between a label and a branch back to it, in a disassembler's listing."""
    labels = {line.strip()[:-1]: at for at, line in enumerate(lines) if line.strip().endswith(":")}
    branches = [(at, match[1]) for at, line in enumerate(lines) if (match := re.search(r"BRA.*`\((\.L_x_\d+)\)", line))]
    return [lines[labels[to] : at + 1] for at, to in branches if labels[to] < at]


def without_the_next_tap(steps: list[str]) -> list[str]:
    """A loop without what it skips in most steps: the part that reads the tables of taps, and nothing else."""
    labels = {line.strip()[:-1]: at for at, line in enumerate(steps) if line.strip().endswith(":")}
    for at, line in enumerate(steps):
        match = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
        skipped = steps[at + 1 : labels.get(match[1], 0)] if match else []
        if count(r"LDG\.E ", skipped) >= 4 and not count(r"FFMA|LDS|STS|LDG\.E\.", skipped):
            return steps[: at + 1] + steps[at + 1 + len(skipped) :]
    raise AssertionError("no part of the loop reads the tables of taps")
