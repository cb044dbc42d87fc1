"""Kernels made of slices from one generator, as a decomposition of single sites and of many."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.slice_generator import (
    SliceShape,
    assemble,
    check_code_size,
    fit_generator,
)
from tfapprox.decompositions.spectra import SpectrumCache, check_finite
from tfapprox.decompositions.table import checked_settings, evenly, measured_table, ranks_below
from tfapprox.errors import UserError
from tfapprox.selection.problem import CandidateTable, Configuration

NAME = "slice_generator"
_MOST_SIZES = 8  # code sizes to offer for a site


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedStage(Stage):
    """A dense kernel that is stored as codes and a generator.

    Attributes:
      codes: [slices, code size], in the order of `slice_generator.partition`.
      generator: [code size, height, width, in, out]; stages that share one hold one object.
      generator_params: how many of the generator's entries count as this stage's.
    """

    codes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    generator: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0,) * 5))
    generator_params: int = 0

    @property
    def params(self) -> int:
        """Entries that are stored for this stage, its share of the generator included."""
        return self.codes.size + self.generator_params


def usual_shape(kernels: Sequence[np.ndarray]) -> SliceShape:
    """Returns 16 x 16 channels and 3 x 3 taps, or 1 x 1 where no kernel has more."""
    taps = 1 if all(kernel.shape[:2] == (1, 1) for kernel in kernels) else 3
    return SliceShape(16, 16, taps, taps)


def configuration(shape: SliceShape, code_size: int, group: int = 0) -> Configuration:
    """Returns the settings of a generated kernel.

    Args:
      group: kernels of one group share a generator; those of group 0 have their own.
    """
    settings = {"code_size": code_size, **dataclasses.asdict(shape), "group": group}
    return Configuration(NAME, settings)


def generate(
    kernels: Sequence[np.ndarray], shape: SliceShape, code_size: int
) -> tuple[list[Factorization], tuple[float, ...]]:
    """Returns each kernel made by the best linear generator for all, and relative errors.

    Raises:
      UserError: the code size exceeds the entries of a slice.
    """
    fit = fit_generator(kernels, shape, code_size)
    dtype = kernels[0].dtype
    generator = np.ascontiguousarray(fit.generator, dtype)
    basis = generator.reshape(code_size, -1)
    made = []
    for number, (kernel, codes) in enumerate(zip(kernels, fit.codes, strict=True)):
        stored = np.ascontiguousarray(codes, kernel.dtype)
        share = generator.size // len(kernels) + (number < generator.size % len(kernels))
        stage = GeneratedStage(
            assembled(stored, basis, shape, kernel.shape),
            codes=stored,
            generator=generator,
            generator_params=share,
        )
        made.append(Factorization((stage,)))
    return made, fit.errors


def assembled(
    codes: np.ndarray, basis: np.ndarray, shape: SliceShape, kernel_shape: Sequence[int]
) -> np.ndarray:
    """Returns the kernel that codes and a generator [code size, slice size] make."""
    wide = np.result_type(np.float32, codes.dtype)
    rows = (codes.astype(wide) @ basis.astype(wide)).astype(codes.dtype)
    return np.ascontiguousarray(assemble(rows, shape, kernel_shape))


class SliceGeneratorDecomposition:
    """Codes times a generator: fewer parameters, as many multiply-adds.

    By itself a site gets a generator of its own; `for_sites` fits one for each group.

    References:
      Omidvar et al. 2021, eq. 1; fitted to trained kernels here, not trained.
    """

    def __init__(self, built: Mapping[str, Factorization] | None = None):
        self._built = built or {}

    def for_sites(
        self, choices: Sequence[tuple[Site, Configuration]]
    ) -> "SliceGeneratorDecomposition":
        """Returns one that has fitted the generators which some sites are to share.

        Raises:
          UserError: settings that do not fit.
        """
        groups: dict[tuple[int, ...], list[Site]] = defaultdict(list)
        for site, choice in choices:
            settings = _checked(site, choice)
            if settings[-1] > 0:
                groups[settings].append(site)
        built: dict[str, Factorization] = {}
        for (code_size, *sizes, _), sites in groups.items():
            kernels = [site.kernel for site in sites]
            made, _ = generate(kernels, SliceShape(*sizes), code_size)
            built |= {site.name: one for site, one in zip(sites, made, strict=True)}
        return SliceGeneratorDecomposition(built)

    def candidates(
        self, site: Site, metric: str, options: CandidateOptions, spectra: SpectrumCache
    ) -> CandidateTable:
        """Returns code sizes that store less than the kernel, for a generator of its own."""
        check_finite(site)
        shape = usual_shape([site.kernel])
        limit = min(shape.size, site.kernel.size // (shape.size + shape.count(site.kernel.shape)))
        sizes = evenly(list(ranks_below(limit + 1, options.rank_multiple)), _MOST_SIZES)
        rows = [
            (row, self.factorize(site, row, spectra))
            for row in (configuration(shape, int(size)) for size in sizes if size <= limit)
        ]
        return measured_table(site, metric, spectra, rows)

    def full_rank(self, site: Site) -> Configuration:
        """Returns codes as long as a slice, or as there are slices."""
        shape = usual_shape([site.kernel])
        return configuration(shape, min(shape.size, shape.count(site.kernel.shape)))

    def factorize(self, site: Site, choice: Configuration, spectra: SpectrumCache) -> Factorization:
        """Returns the one stage, which holds codes and generator.

        Raises:
          UserError: other settings, or codes longer than a slice.
        """
        code_size, *sizes, group = _checked(site, choice)
        if group > 0 and site.name in self._built:
            return self._built[site.name]
        (made,), _ = generate([site.kernel], SliceShape(*sizes), code_size)
        return made


def _checked(site: Site, choice: Configuration) -> tuple[int, ...]:
    """Returns code size, slice shape (out, in, height, width) and group."""
    some = range(1, 1 << 20)
    names = [field.name for field in dataclasses.fields(SliceShape)]
    accepted = {"code_size": some, **dict.fromkeys(names, some), "group": range(1 << 20)}
    code_size, *sizes, group = checked_settings(site, choice, accepted)
    try:
        check_code_size(code_size, SliceShape(*sizes))
    except UserError as error:
        raise UserError(f"site {site.name}: {error}") from error
    return (code_size, *sizes, group)
