"""The flags of `tfapprox compress` that say how the budget is spent."""

import argparse

from tfapprox.cli import flags, sampling, slices
from tfapprox.decompositions.options import CandidateOptions


def add_method_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the settings of `CompressionConfig`; None, the default, leaves them to it."""
    from tfapprox import registry  # loads scipy

    usual = CandidateOptions()
    group.add_argument(
        "--selector",
        metavar="NAME",
        help=f"how to spend the budget: {', '.join(registry.SELECTORS)} (default: alds)",
    )
    group.add_argument(
        "--decompositions",
        type=flags.names,
        metavar="NAME,...",
        help=f"methods to try: {', '.join(registry.DECOMPOSITIONS)} (default: svd), or all, which "
        "takes longer and finds the best for each site; or, alone, "
        f"{slices.NAME}, which makes all kernels from one matrix at load, or {sampling.NAME}, "
        "which multiplies sampled column-row pairs only",
    )
    group.add_argument(
        "--sampling_ratio",
        type=float,
        metavar="R",
        help=f"of {sampling.NAME}: share of the pairs that each product keeps",
    )
    group.add_argument(
        "--sampling",
        choices=("topk", "sampled"),
        help=f"of {sampling.NAME}: the heaviest pairs, or drawn by weight (default: topk)",
    )
    group.add_argument(
        "--slice_shape",
        type=flags.numbers,
        metavar="O,I,H,W",
        help=f"of {slices.NAME}: out, in, height, width (default: 16,16,3,3)",
    )
    group.add_argument(
        "--metric",
        metavar="NAME",
        help=f"what error means: {', '.join(registry.METRICS)} (default: the selector's own)",
    )
    group.add_argument(
        "--objective",
        choices=("cost", "latency"),
        default="cost",
        help="latency: replace a site only where that is measured to be faster, and never "
        "write a model slower than the original (default: cost, what the budget limits)",
    )
    group.add_argument(
        "--include", metavar="REGEX", help="factorize only sites whose name matches (default: all)"
    )
    group.add_argument(
        "--exclude", metavar="REGEX", help="keep sites whose name matches (default: none)"
    )
    group.add_argument(
        "--schemes",
        type=flags.numbers,
        metavar="N,...",
        help=f"SVD unfoldings to try (default: {','.join(map(str, usual.schemes))})",
    )
    group.add_argument(
        "--slices",
        type=flags.numbers,
        metavar="K,...",
        help="numbers of channel slices to try "
        f"(default: {','.join(map(str, usual.slices))}; more is rarely faster)",
    )
    group.add_argument(
        "--evbmf_weakening",
        type=float,
        metavar="T",
        help="of evbmf: take at least T times its ranks, as far as the budget allows (default: 1)",
    )
    group.add_argument(
        "--evbmf_floor",
        type=int,
        metavar="RANK",
        help="of evbmf: least rank, also where it finds only noise (default: 0, keep those dense)",
    )
    group.add_argument(
        "--rank_multiple",
        type=flags.positive,
        metavar="N",
        help=f"ranks are multiples of this (default: {usual.rank_multiple})",
    )
