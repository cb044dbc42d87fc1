"""Factorizations out of tensorly's factors, at a common share of each layer's ranks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.environment import Peer
from tfapprox.accounting.cost import Cost
from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site

METHODS = ("tucker2", "cp")


def factorize_by_tensorly(
    peer: Peer, method: str, sites: Sequence[Site], macs: int, fixed: int
) -> dict[str, Factorization]:
    """Returns tensorly's factorization of every spatial convolution, and plain SVDs of the rest.

    The ranks of all layers are the same share of the largest useful ones, the largest
    share that the budget admits; a layer that would not get cheaper stays dense.

    Args:
      peer: runs `tensorly_factors`.
      method: "tucker2" or "cp".
      sites: of the model.
      macs: that the whole model may have.
      fixed: those of what is no site.
    """
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        used = fixed + sum(_cheaper(method, site, share)[1] for site in sites)
        low, high = (share, high) if used <= macs else (low, share)
    chosen = {site.name: _cheaper(method, site, low)[0] for site in sites}
    return {
        site.name: _build(peer, method, site, ranks)
        for site in sites
        if (ranks := chosen[site.name]) is not None
    }


def _is_spatial(site: Site) -> bool:
    return site.kernel_size != (1, 1)


def _most(method: str, site: Site) -> tuple[int, ...]:
    height, width, inner, outer = site.kernel.shape
    if not _is_spatial(site):
        return (min(inner, outer),)
    return (inner, outer) if method == "tucker2" else (height * width * min(inner, outer),)


def _cheaper(method: str, site: Site, share: float) -> tuple[tuple[int, ...] | None, int]:
    """Returns the ranks and their MACs, or None and the dense MACs where those are fewer."""
    ranks = tuple(max(1, int(share * most)) for most in _most(method, site))
    cost = _cost(method, site, ranks)
    return (ranks, cost.macs) if cost.macs < site.cost.macs else (None, site.cost.macs)


def _cost(method: str, site: Site, ranks: tuple[int, ...]) -> Cost:
    kinds = {"core": (*site.kernel_size, *ranks)} if len(ranks) == 2 else {}
    sizes = {
        "in": (site.in_channels, ranks[0]),
        "out": (site.out_channels, ranks[-1]),
        "height": (site.kernel_size[0], ranks[0]),
        "width": (site.kernel_size[1], ranks[0]),
    }
    empty = {name: np.empty(size, site.kernel.dtype) for name, size in (sizes | kinds).items()}
    return _chain(method, site, empty).cost(site.geometries)


def _build(peer: Peer, method: str, site: Site, ranks: tuple[int, ...]) -> Factorization:
    if not _is_spatial(site):
        left, values, right = np.linalg.svd(site.kernel[0, 0], full_matrices=False)
        rank = ranks[0]
        factors = {"in": left[:, :rank] * values[:rank], "out": right[:rank].T}
        return _chain(method, site, factors)
    with tempfile.TemporaryDirectory() as folder:
        kernel, answer = Path(folder, "kernel.npy"), Path(folder, "factors.npz")
        np.save(kernel, site.kernel)
        peer.ask(method=method, kernel=str(kernel), ranks=ranks, factors=str(answer))
        with np.load(answer) as found:
            return _chain(method, site, dict(found))


def _chain(method: str, site: Site, factors: dict[str, np.ndarray]) -> Factorization:
    first = Stage(factors["in"][None, None], axes=(False, False))
    last = Stage(np.ascontiguousarray(factors["out"].T)[None, None], axes=(False, False))
    middle: tuple[Stage, ...]
    if not _is_spatial(site):
        last = Stage(last.kernel)
        middle = ()
    elif method == "tucker2":
        middle = (Stage(factors["core"]),)
    else:
        rank = factors["in"].shape[1]
        middle = (
            Stage(factors["height"][:, None, None], rank, (True, False)),
            Stage(factors["width"][None, :, None], rank, (False, True)),
        )
    stages = (first, *middle, last)
    return Factorization(
        tuple(
            Stage(np.asarray(stage.kernel, site.kernel.dtype), stage.groups, stage.axes)
            for stage in stages
        )
    )
