"""Shared by all tests: the thread count is what it was before each of them, and a whole run compiles on two cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numba
import pytest

WHOLE_RUN = 1000  # tests; a smaller run compiles no more than it needs
# Tests that compile little themselves go first, while a second process compiles what the others call.
FIRST = (
    "cli", "compare", "comparison_page", "comparison_plots", "cuda", "docstrings", "figures", "plots", "readme", "report",
    "site", "store", "suite", "texts",
)  # fmt: skip
COMPILE = """
import numpy as np
from tconv_bench import Problem, conv_transpose2d, conv_transpose_grads, measure, registry, upsample
x = {dtype: np.ones((1, 2, 8, 8), dtype) for dtype in ("float32", "float64")}
for dtype in x:
    for kernel in (2, 3, 4):
        weight = np.ones((2, 2, kernel, kernel), dtype)
        out = conv_transpose2d(x[dtype], weight, stride=kernel)
    conv_transpose_grads(out, x[dtype], weight, stride=kernel)
for dtype in x:
    for enlarge in (upsample.nearest, upsample.bilinear, upsample.bicubic):
        enlarge(x[dtype], 2)
for dtype in ("float64", "int64", "float32"):
    for batch in (1, 2):
        problem = Problem(batch, 2, (3, 3), 2, 4, 2, dtype=dtype)
        data = measure.make_data(problem)
        for variant in map(registry.get, registry.methods()):
            if variant.supports(problem) is True:
                variant.one_shot(problem, data.weight, data.bias, data.x, measure.poisoned(problem))
                variant.run(variant.prepare(problem, data.weight, data.bias), data.x, measure.poisoned(problem))
"""


# Where two processes share the files, those that take longest go first.
LONGEST = ("variants", "compare", "gpu_check", "suite", "upsample", "plan", "conv", "peers", "figures", "gradients", "winograd")
IN_PARTS = "PYTEST_XDIST_WORKER" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        if IN_PARTS:
            return LONGEST.index(name) if name in LONGEST else len(LONGEST)
        return int(name not in FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def short_turns() -> Iterator[None]:
    """Numba's CUDA simulator asks its threads without a pause whether all wait: in turns of 5 ms, Python's, it took seven times
    as long as in these."""
    before = sys.getswitchinterval()
    if numba.config.ENABLE_CUDASIM:
        sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="session", autouse=True)
def compiled_meanwhile(request: pytest.FixtureRequest) -> Iterator[None]:
    """A second process compiles into the cache that tests read."""
    if IN_PARTS or len(request.session.items) < WHOLE_RUN:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", COMPILE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield
    process.kill()
    process.wait()
