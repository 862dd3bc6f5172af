"""Problems drawn at random: the same for a seed, of every kind, within their bounds, and what is computed of them is right."""

from __future__ import annotations

from math import prod

from tconv_bench import drawn

FOUND = drawn.problems(300, 5)


def test_a_seed_draws_the_same_problems_and_of_fewer_the_first_ones():
    assert drawn.problems(20, 5) == FOUND[:20]
    assert drawn.problems(20, 6) != FOUND[:20]
    assert len(set(FOUND)) == 300


def test_they_are_within_their_bounds():
    for problem in FOUND:
        assert drawn.FLOPS[0] <= problem.flops <= drawn.FLOPS[1]
        assert problem.itemsize * prod(problem.x_shape) <= drawn.MOST_BYTES[0]
        assert problem.itemsize * prod(problem.out_shape) <= drawn.MOST_BYTES[1]


def test_every_kind_is_drawn():
    assert {problem.ndim for problem in FOUND} == {1, 2, 3}
    assert {1, 2, 8} <= {problem.batch for problem in FOUND}
    assert {"one", "four", "depthwise"} == {
        "one" if p.groups == 1 else "depthwise" if p.groups == p.c_in else "four" for p in FOUND
    }
    assert any(problem.kernel == problem.stride for problem in FOUND)
    assert any(problem.kernel[0] > 2 * problem.stride[0] > 2 for problem in FOUND)
    assert any(max(problem.output_padding) for problem in FOUND)
    assert any(len(set(problem.in_size)) > 1 for problem in FOUND)
