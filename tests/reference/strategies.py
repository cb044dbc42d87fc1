"""Hypothesis strategies: kernels, geometries, selection problems."""

import numpy as np
from hypothesis import strategies as st

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


@st.composite
def kernels(draw, dtype=np.float64, max_taps=3, max_channels=8):
    """Kernels [H, W, I, O] of random entries, now and then of low rank."""
    shape = [draw(st.integers(1, max_taps)) for _ in range(2)]
    shape += [draw(st.integers(1, max_channels)) for _ in range(2)]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kernel = rng.standard_normal(shape)
    if draw(st.booleans()):
        kernel = rng.standard_normal([*shape[:3], 2]) @ rng.standard_normal((2, shape[3]))
    return kernel.astype(dtype)


@st.composite
def geometries(draw, max_size=7):
    """Geometries with strides, dilations and all three kinds of padding."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    zeros = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = draw(st.sampled_from(["SAME", "VALID"]) | st.tuples(zeros, zeros))
    size = draw(st.tuples(st.integers(1, max_size), st.integers(1, max_size)))
    return Geometry(draw(pair), draw(pair), padding, size)


def divisors(number):
    """All divisors of a number, as a strategy."""
    return st.sampled_from([k for k in range(1, number + 1) if number % k == 0])


@st.composite
def problems(draw, kind="macs", max_sites=3, max_rows=4):
    """Small problems with ties in error and cost, rows dearer than dense, empty tables."""
    tables = []
    for site in range(draw(st.integers(0, max_sites))):
        rows = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 12)), max_size=max_rows))
        cost = np.array([cost for _, cost in rows], np.int64)
        dense = draw(st.integers(1, 10))
        tables.append(
            CandidateTable(
                site=f"site{site}",
                configurations=[Configuration("svd", {"rank": i}) for i in range(len(rows))],
                error=np.array([error / 6 for error, _ in rows], np.float64),
                cost={"params": cost, "macs": cost, "bytes": cost},
                dense=Cost(dense, dense, dense),
                norm=1.0,
            )
        )
    fixed = draw(st.integers(0, 5))
    keep = draw(st.integers(1, 20)) / 20
    return Problem(tuple(tables), Budget(kind, keep=keep), Cost(fixed, fixed, fixed))
