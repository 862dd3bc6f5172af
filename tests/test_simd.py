"""The register tile on every vector width, and kernels where no cache folder can be written."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import simd

WIDTHS = """
import numpy as np, sys
from tconv_bench import simd, conv_transpose2d, reference, Problem
assert simd.VECTOR_BYTES == int(sys.argv[1]), simd.VECTOR_BYTES
p = Problem.parse("n2_ci13_i5x40_co15_k3x4_s2x2_p1x2_float32")
rng = np.random.default_rng(0)
x, w = (rng.integers(-4, 5, s).astype("float32") for s in (p.x_shape, p.weight_shape))
for method in ("direct", "col2im"):
    out = conv_transpose2d(x, w, stride=2, padding=(1, 2), method=method)
    assert (out == reference.conv_transpose(p, x, w)).all()
print("right")
"""


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


@pytest.mark.parametrize(("name", "width"), [("haswell", "32"), ("generic", "16")])
def test_narrower_processors_give_the_same_values(name: str, width: str):
    if not os.uname().machine.startswith("x86") and name == "haswell":
        pytest.skip("haswell code runs on x86 only")
    done = run_python(WIDTHS, width, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES="")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_without_a_writable_cache_folder_everything_still_runs(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made below a file")
    code = "import numpy as np, tconv_bench as t\nprint(t.conv_transpose1d(np.array([[1, 2]]), np.array([[[3, 4]]])).tolist())"
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
