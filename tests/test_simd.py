"""The register tile on every vector width, and kernels where no cache folder can be written."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal

from tconv_bench import simd

WIDTHS = """
import numpy as np, sys
from tconv_bench import simd, conv_transpose2d, reference, Problem
assert simd.VECTOR_BYTES == int(sys.argv[1]), simd.VECTOR_BYTES
p = Problem.parse("n2_ci13_i5x40_co15_k3x4_s2x2_p1x2_float32")
rng = np.random.default_rng(0)
x, w = (rng.integers(-4, 5, s).astype("float32") for s in (p.x_shape, p.weight_shape))
for method in sys.argv[2:]:
    out = conv_transpose2d(x, w, stride=2, padding=(1, 2), method=method)
    assert (out == reference.conv_transpose(p, x, w)).all()
from tests.problems import PROBLEMS, integer_data, poisoned
from tconv_bench import registry
for p in [q for q in PROBLEMS if q.dtype == "float32"][::6]:
    x, w, b = integer_data(p)
    out = poisoned(p)
    registry.get("phase").one_shot(p, w, b, x, out)
    assert (out == reference.conv_transpose(p, x, w, b)).all(), p
print("right")
"""


@njit
def copy_strided(source, at, step, target, to, count):
    simd.copy_strided(source, at, step, target, to, count)


@njit
def difference_to_itself(source, at, count):
    return simd.difference_to_itself(source, at, count)


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_rank_k_on_every_tail(dtype: str):
    rng = np.random.default_rng(5)
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    sizes = [1, lanes - 1, lanes, simd.NV * lanes, simd.NV * lanes + lanes + 1]
    for m in (1, 2, 3, 5, 6, 7, 13):
        for n in sizes:
            for k in (0, 1, 9):
                a, b = (rng.integers(-9, 9, shape).astype(dtype) for shape in ((m, k + 2), (k + 1, n + 3)))
                c = rng.integers(-9, 9, (m + 1, n + 4)).astype(dtype)
                product = a[:, 1 : 1 + k] @ b[:k, 2 : 2 + n]
                for add in (True, False):
                    out, expected = c.copy(), c.copy()
                    expected[:m, 3 : 3 + n] = product + (c[:m, 3 : 3 + n] if add else 0)
                    simd.rank_k(m, n, k, a.ravel(), 1, k + 2, 1, b.ravel(), 2, n + 3, out.reshape(-1), 3, n + 4, add)
                    assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_sum_taps_of_every_tile(dtype: str):
    rng = np.random.default_rng(6)
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    taps = np.array([99, 99, 3, 2, 50, 7, 0, 31])  # a tap before the first, then three
    a, b = rng.integers(-9, 9, 400).astype(dtype), rng.integers(-9, 9, 2000).astype(dtype)
    bias = rng.integers(-9, 9, 20).astype(dtype)
    ahead = np.full(8, a.ctypes.data)
    for m in simd.HEIGHTS:
        for vectors in (1, 2, simd.WIDE) if m <= 6 else (1, 2):
            n = vectors * lanes
            for count, k in ((0, 5), (3, 0), (1, 1), (3, 9)):
                for from_c in (True, False):
                    c = rng.integers(-9, 9, (3, m, n + 3)).astype(dtype)
                    expected = c.copy()
                    for tile in range(2):
                        own = expected[tile, :, 1 : 1 + n]
                        own[...] = own if from_c else bias[2 : 2 + m, None]
                        for tap in range(1, 1 + count):
                            for p in range(k):
                                at_a = 5 + taps[2 * tap] + p * 13 + 2 * tile
                                at_b = 4 + taps[2 * tap + 1] + p * (n + 1) + 3 * tile
                                own += np.outer(a[at_a : at_a + m], b[at_b : at_b + n])
                    simd.sum_taps(
                        m, vectors, a, 5, 13, b, 4, n + 1, taps, 1, count, k, from_c, bias, 2, c.reshape(-1), 1, n + 3, ahead,
                        1, 3, b.ctypes.data, 64, 2, 2, 3, m * (n + 3), 128
                    )  # fmt: skip
                    assert_array_equal(c, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_sum_columns_of_every_tile(dtype: str):
    rng = np.random.default_rng(7)
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    a, b = rng.integers(-9, 9, 400).astype(dtype), rng.integers(-9, 9, 2000).astype(dtype)
    for m in simd.HEIGHTS:
        for k in (1, 2, 9):
            for add in (True, False):
                c = rng.integers(-9, 9, (m, 2 * lanes + 3)).astype(dtype)
                expected = c.copy()
                if not add:
                    expected[:, 1 : 1 + 2 * lanes] = 0
                for p in range(k):
                    at = 4 + p * (lanes + 1)
                    columns = np.concatenate([b[at : at + lanes], b[at + 300 : at + 300 + lanes]])
                    expected[:, 1 : 1 + 2 * lanes] += np.outer(a[5 + p * 13 : 5 + p * 13 + m], columns)
                copied = np.full(600, -1).astype(dtype)
                expected_copy = copied.copy()
                source, place = 6, 3 + 8 * lanes
                for p in range(k):
                    expected_copy[place : place + lanes] = b[source : source + lanes]
                    turns = p in (1, 5)  # two vectors are left of a row, then come rows of four
                    source, place = source + (7 if turns else lanes), place + (-4 if turns else 2) * lanes
                simd.sum_columns(
                    m, a, 5, 13, b, 4, lanes + 1, 300, k, add, c.reshape(-1), 1, 2 * lanes + 3, b, 6, lanes, 7, copied,
                    3 + 8 * lanes, 2 * lanes, -4 * lanes, 2, 4, b.ctypes.data, 64, 32
                )  # fmt: skip
                assert_array_equal(c, expected)
                assert_array_equal(copied, expected_copy)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_add_transposed_adds_to_the_named_places(dtype: str):
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    source = np.arange(2000).astype(dtype)
    for rows in (1, lanes - 1, lanes):
        for columns in (1, lanes, lanes + 3):
            places = np.array([-1, *np.random.default_rng(8).permutation(columns) * lanes])
            target = np.arange(columns * lanes).astype(dtype)
            expected = target.copy()
            for k, place in enumerate(places[1:]):
                expected[place : place + rows] += source[2 + k + np.arange(rows) * 31]
            simd.add_transposed(source, 2, 31, rows, columns, target, places, 1)
            for place in places[1:]:
                assert_array_equal(target[place : place + rows], expected[place : place + rows])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_interleave_writes_the_named_elements_and_no_others(dtype: str):
    for stride in (1, 2, 3, 4, 5, 6, 8, 16):
        source = np.arange(stride * 300).astype(dtype)
        for count in (0, 1, 5, 16, 17, 31, 33, 64, 127, 128, 200):
            out = np.full(400, -1).astype(dtype)
            simd.interleave(stride, source, 3, 290, out, 7, count)
            expected = np.full(400, -1).astype(dtype)
            expected[7 : 7 + count] = [source[3 + (i % stride) * 290 + i // stride] for i in range(count)]
            assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_small_parts_of_the_packing(dtype: str):
    source = np.arange(1, 200).astype(dtype)
    target = np.zeros(60, dtype)
    copy_strided(source, 2, 3, target, 4, 50)
    assert_array_equal(target, [*np.zeros(4), *source[2 : 2 + 150 : 3], *np.zeros(6)])
    target[:] = 0
    simd.copy(source, 1, target, 2, 37)
    assert_array_equal(target, [*np.zeros(2), *source[1:38], *np.zeros(21)])
    assert difference_to_itself(source, 3, 100) == 0
    lanes = simd.VECTOR_BYTES // source.itemsize
    taps, weight, sums = np.array([1, 2, 0, 5]), np.array([3, 7], dtype), np.zeros(6 * lanes + 1, dtype)
    simd.sum_lines(source[:150], weight, 0, taps, 0, 2, source.dtype.type(4), sums, 1, 6 * lanes)
    n = np.arange(6 * lanes)
    assert_array_equal(sums[1:], 4 + 7 * source[n + 2] + 3 * source[n + 5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_taken_apart(dtype: str):
    for stride in (1, 2, 3):
        source = np.arange(1, 400).astype(dtype)
        for first, last, count in ((0, 90, 30), (2, 40, 17), (-3, 200, 45), (5, 5, 4)):
            out = np.full((stride, 60), -1).astype(dtype)
            simd.deinterleave(stride, source, 100, first, last, out.reshape(-1), 5, 60, count)
            expected = np.full((stride, 60), -1).astype(dtype)
            for r, j in np.ndindex(stride, count):
                element = stride * j + r
                expected[r, 5 + j] = source[100 + element] if first <= element < last else 0
            assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_taps_read_of_an_image(dtype: str):
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    sizes, shifts = (2, 3, 40), (-1, 0, -2)
    source = np.arange(1, 400).astype(dtype)
    places = [(1, 0, 0), (2, 2, 4), (2, 1, 20), (1, 1, 33), (0, 1, 0), (3, 1, 0), (1, 3, 0), (1, 0, 39)]
    for stride in (1, 2, 3, 4, 5, 8):
        for step, taps in ((1, 1), (1, 5), (2, 3), (1, 18)):
            for pixels in (lanes, lanes - 1):
                out = np.full((taps + 1, 200), -1).astype(dtype)
                expected = out.copy()
                pieces = np.array([
                    (((z - 1) * 3 + y) * 40 + x - 2, 20 * number, pixels, z, y, x) for number, (z, y, x) in enumerate(places)
                ])  # fmt: skip
                simd.copy_columns(stride, source, 50, sizes, shifts, step, taps, pieces, len(pieces), out.reshape(-1), 3, 200)
                for place, to, _, z, y, x in pieces:
                    for k, j in np.ndindex(taps, pixels):
                        along = x - 2 + k * step + stride * j
                        exists = 0 <= z - 1 < 2 and 0 <= y < 3 and 0 <= along < 40
                        expected[k, 3 + to + j] = source[50 + place + k * step + stride * j] if exists else 0
                assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_taps_turned_round(dtype: str):
    rng = np.random.default_rng(4)
    for columns, rows, written in ((1, 5, 5), (4, 12, 12), (9, 20, 32), (16, 64, 64), (25, 7, 16), (64, 3, 4)):
        source = rng.permutation(2 + columns * rows).astype(dtype)
        places = rng.permutation(columns) * 70
        places[columns // 2] = -1  # a tap that is left out
        out = np.full(columns * 70, -1).astype(dtype)
        expected = out.copy()
        for k, place in enumerate(places):
            if place >= 0:
                expected[3 + place : 3 + place + written] = 0
                expected[3 + place : 3 + place + rows] = source[2 + k : 2 + columns * rows : columns]
        simd.transpose(columns, columns, source, 2, out, places, 3, rows, written)
        assert_array_equal(out, expected)


@njit
def _turn_squares(code, source, at, row_step, rows, columns, size, target, to, column_step):
    simd.call_squares(code, source, at, row_step, rows, columns, size, target, to, column_step)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("down", [False, True])
def test_squares_turned_round_stay_within_their_source(down: bool, dtype: str):
    """The named rows and columns are right, to the source's last element; beyond it nothing is read."""
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    step = 48
    for rows, columns, more in ((32, 9, 0), (12, 16, 0), (20, 25, 3), (3, 27, 0)):
        size = 5 + rows * columns + more
        source = np.full(size + lanes * columns, np.nan, dtype)
        source[:size] = np.arange(size)
        spare = -columns % lanes
        target = np.zeros((columns + 2 * spare + 1) * step, dtype)
        first = (spare + (columns - 1) * down) * step
        _turn_squares(
            simd.native_squares(dtype).address, source, 5, columns, rows, columns, size, target, first, -step if down else step
        )
        taps = target.reshape(-1, step)[spare : spare + columns, :rows]
        matrix = source[5 : 5 + rows * columns].reshape(rows, columns)
        assert_array_equal(taps[::-1] if down else taps, matrix.T)
        assert not np.isnan(target).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "taps", "mixed"), [(2, 2, 0), (3, 2, 0), (2, 3, 0), (2, 2, 1), (3, 2, 1), (2, 3, 1)])
def test_short_correlations_with_fewer_products(size: int, taps: int, mixed: int, dtype: str):
    rng = np.random.default_rng(2)
    tiles = 2 * simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    window = size + taps - 1
    # element l of a tile's window stands on line l % size, a place further for l >= size
    lines = rng.integers(-9, 9, (size, tiles + 3)).astype(dtype)
    elements = np.array([lines[i % size, 1 + i // size : 1 + i // size + tiles] for i in range(window)])
    kinds = [(taps, 0), (taps - 1, 1)] if mixed else [(taps, 0)]
    products = [size + count - 1 for count, _ in kinds]
    rows = np.zeros((sum(products), tiles), dtype)
    simd.combine_window(size, taps, mixed, lines.reshape(-1), 1, tiles + 3, 1, rows.reshape(-1), 0, tiles, tiles)
    first = 0
    for (count, shift), lanes in zip(kinds, products):
        kernel = rng.integers(-9, 9, (count, tiles)).astype(dtype)
        weights = np.zeros((lanes, tiles), dtype)
        simd.combine_weights(size, count, kernel.reshape(-1), 0, tiles, weights.reshape(-1), 0, tiles, tiles)
        sums = np.zeros((size, tiles), dtype)
        multiplied = weights * rows[first : first + lanes]
        simd.combine_outputs(size, lanes, multiplied.reshape(-1), 0, tiles, sums.reshape(-1), 0, tiles, tiles)
        exact = [sum(kernel[i] * elements[shift + e + i] for i in range(count)) for e in range(size)]
        assert_array_equal(sums, exact)
        first += lanes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_wherever_it_stands(value: float):
    for place in range(40):
        source = np.ones(40, "float32")
        source[place] = value
        assert (difference_to_itself(source, 2, 30) != 0) == (2 <= place < 32)


@pytest.mark.parametrize(
    ("name", "features", "width"),
    [
        ("znver4", "", 64), ("haswell", "", 32), ("generic", "", 16), ("znver3", "", 32), ("skylake-avx512", "", 64),
        ("generic", "+sse2,+avx2,+fma", 32), ("generic", "+avx2,+avx512f", 64), ("cortex-a76", "+neon", 16),
        ("znver4", "+avx2,-avx512f", 32),
    ],
)  # fmt: skip
def test_vector_width_follows_the_processor(name: str, features: str, width: int):
    assert simd.vector_bytes(name, features) == width


NARROWER = {"haswell": "32", "generic": "16"} if platform.machine() in ("x86_64", "AMD64") else {"generic": "16"}


@pytest.fixture(scope="module")
def narrower(tmp_path_factory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each narrower processor; both at once, for all that they do is compile."""
    blocked = tmp_path_factory.mktemp("narrower") / "file"
    blocked.write_text("no folder can be made below a file")
    started = {}
    for name, width in NARROWER.items():
        environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
        if name == "generic":  # without a cache folder too: one compilation shows both
            environment["NUMBA_CACHE_DIR"] = str(blocked / "below")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started[name] = subprocess.Popen([sys.executable, "-c", WIDTHS, width, "phase"], env=environment, **pipes)
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROWER)
def test_narrower_processors_give_the_same_values_by_other_methods(name: str):
    methods = ("col2im", "winograd", "direct", "scatter_add")
    done = run_python(WIDTHS, NARROWER[name], *methods, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES="")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


@pytest.mark.parametrize("name", NARROWER)
def test_narrower_processors_give_the_same_values(name: str, narrower):
    out, errors = narrower[name].communicate()
    assert (narrower[name].returncode, out) == (0, "right\n"), errors


def test_without_a_writable_cache_folder_everything_still_runs(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made below a file")
    code = (
        "import numpy as np, tconv_bench as t\n"
        "print(t.conv_transpose1d(np.array([[1, 2]]), np.array([[[3, 4]]]), method='direct').tolist())"
    )
    done = run_python(code, NUMBA_CACHE_DIR=str(blocked / "below"))
    assert (done.returncode, done.stdout) == (0, "[[3, 10, 8]]\n"), done.stderr


def test_kernels_of_sources_long_unused_are_dropped(tmp_path):
    old, recent, foreign = (tmp_path / name for name in ("0123456789abcdef", "fedcba9876543210", "someone-elses"))
    for folder in (old, recent, foreign):
        folder.mkdir()
    for folder in (old, foreign):
        os.utime(folder, (0, 0))
    done = run_python("from tconv_bench import jit; print(jit.source_fingerprint())", NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([recent.name, foreign.name, done.stdout.strip()])


FORK = """
import os, threading, numpy as np
from tconv_bench import conv_transpose2d, reference, Problem
p = Problem.parse("n2_ci24_i30x40_co32_k4x4_s2x2_p1x1")
rng = np.random.default_rng(0)
x, w = (rng.integers(-4, 5, s).astype("float32") for s in (p.x_shape, p.weight_shape))
exact = reference.conv_transpose(p, x, w)
def right():
    return all((conv_transpose2d(x, w, stride=2, padding=1, method="phase") == exact).all() for _ in range(5))
assert right()
child = os.fork()
if child == 0:
    os._exit(0 if right() else 7)
assert os.waitpid(child, 0)[1] == 0
answers = []
threads = [threading.Thread(target=lambda: answers.append(right())) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert answers == [True] * 4
print("right")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_child_and_several_threads_get_right_answers():
    done = run_python(FORK)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_stores_past_the_caches_write_what_they_are_given_and_nothing_else(dtype: str):
    line = 64 // np.dtype(dtype).itemsize
    source = np.arange(1, 8 * line + 1).astype(dtype)
    memory = np.zeros(10 * line, dtype)
    for to in range(line, 2 * line + 1):
        for count in (0, 1, line - 1, line, line + 1, 3 * line - 1, 3 * line, 5 * line + 2):
            memory[:] = -1
            simd.stream(source, 3, memory, to, count)
            expected = np.full(memory.size, -1, dtype)
            expected[to : to + count] = source[3 : 3 + count]
            assert_array_equal(memory, expected)
    odd = np.zeros(memory.nbytes + 1, "u1")[1:].view(dtype)  # no element at a multiple of its size
    simd.stream(source, 0, odd, 5, 2 * line)
    assert_array_equal(odd[5 : 5 + 2 * line], source[: 2 * line])
    assert not odd[:5].any()
    assert not odd[5 + 2 * line :].any()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("stride", sorted(simd.WOVEN))
def test_woven_lines_are_sums_of_taps_phase_by_phase(stride: int, dtype: str):
    rng = np.random.default_rng(8)
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    line, weight = rng.integers(-9, 9, 40 * lanes).astype(dtype), rng.integers(-9, 9, 30).astype(dtype)
    counts = rng.permutation([0, 1, 2, 3])[:stride]
    firsts = np.cumsum([1, *counts])[:-1]
    taps = rng.integers(0, 9, (firsts[-1] + counts[-1], 2))
    jobs = np.zeros((2, stride, 4), np.int64)  # the second row phase's are read
    jobs[1, :, 0], jobs[1, :, 1] = firsts, counts
    sizes = (1, stride * lanes - 1, stride * lanes, 4 * stride * lanes, 5 * stride * lanes + 3)
    runs = np.array([(1, 2 + i, 7 * i * stride * lanes, size) for i, size in enumerate(sizes)])
    out = np.full(40 * stride * lanes, -1, dtype)
    expected = out.copy()
    for _, at, place, size in runs:
        for e in range(size):
            j, r = divmod(e, stride)
            own = taps[firsts[r] : firsts[r] + counts[r]]
            expected[4 + place + e] = 5 + sum(weight[3 + w] * line[at + x + j] for w, x in own)
    simd.weave_lines(
        stride, line, weight, 3, taps.ravel(), jobs.ravel(), 4 * stride, line.dtype.type(5), out, 4, runs, len(runs)
    )
    assert_array_equal(out, expected)


@pytest.mark.parametrize("taps", [2, 3])
def test_pixels_in_pairs_of_rows_and_of_neighbours_give_the_same_lines(taps: int):
    lanes = simd.VECTOR_BYTES // 4
    pixels = np.random.default_rng(9).integers(-9, 9, (2, 3 * lanes)).astype("f4")
    count, line = 2 * lanes + 3, 4 * lanes
    expected = np.zeros(4 * line, "f4")
    simd.combine_pixels(taps, pixels.ravel(), 0, 3 * lanes, expected, 0, line, 3 * lanes)
    for exists in (True, False):
        given = pixels.copy()
        given[:, count:] = np.nan  # not to be read
        own = expected.reshape(4, line)[: taps + 1].copy()
        if not exists:
            given[1] = np.nan
            own[1:-1], own[-1] = own[0], 0
        own[:, count:] = 0
        rows = np.zeros((taps + 1, line), "f4")
        simd.combine_pixel_rows(taps, given.ravel(), 0, 3 * lanes, count, exists, rows.ravel(), 0, line)
        assert_array_equal(rows, own)
    neighbours = np.zeros((taps + 1, line), "f4")
    simd.combine_neighbours(taps, pixels.T.copy().ravel(), 0, neighbours.ravel(), 0, line, 3 * lanes)
    assert_array_equal(neighbours, expected.reshape(4, line)[: taps + 1])
