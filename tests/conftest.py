"""Shared by all tests: the thread count is what it was before each of them, and a whole run compiles on two cores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numba
import pytest

WHOLE_RUN = 1000  # tests; a smaller run compiles no more than it needs
COMPILE = """
from tconv_bench import Problem, measure, registry
for dtype in ("float64", "int64", "float32"):
    for batch in (1, 2):
        problem = Problem(batch, 2, (3, 3), 2, 4, 2, dtype=dtype)
        data = measure.make_data(problem)
        for variant in map(registry.get, registry.methods()):
            if variant.supports(problem) is True:
                variant.one_shot(problem, data.weight, data.bias, data.x, measure.poisoned(problem))
                variant.run(variant.prepare(problem, data.weight, data.bias), data.x, measure.poisoned(problem))
"""


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def compiled_meanwhile(request: pytest.FixtureRequest) -> Iterator[None]:
    """A second process compiles into the cache that tests read, those kernels first that come up last."""
    if len(request.session.items) < WHOLE_RUN:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", COMPILE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield
    process.kill()
    process.wait()
