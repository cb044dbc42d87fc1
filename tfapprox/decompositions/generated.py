"""Kernels made of slices from one generator, as stages that store codes and generator.

References:
  Omidvar et al. 2021, eq. 1; fitted to trained kernels here, not trained.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.decompositions.slice_generator import (
    SliceShape,
    assemble,
    check_code_size,
    fit_generator,
)
from tfapprox.decompositions.table import checked_settings
from tfapprox.errors import UserError
from tfapprox.selection.problem import Configuration

NAME = "slice_generator"


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


def configuration(shape: SliceShape, code_size: int) -> Configuration:
    """Returns the settings of a generated kernel; kernels of the same share a generator."""
    return Configuration(NAME, {"code_size": code_size, **dataclasses.asdict(shape)})


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


def generate_choices(
    choices: Sequence[tuple[Site, Configuration]],
) -> dict[str, Factorization]:
    """Returns site name -> its generated kernel; one generator for all of the same settings.

    Raises:
      UserError: settings that do not fit a site.
    """
    groups: dict[tuple[int, ...], list[Site]] = defaultdict(list)
    for site, choice in choices:
        groups[_checked(site, choice)].append(site)
    built: dict[str, Factorization] = {}
    for (code_size, *sizes), sites in groups.items():
        made, _ = generate([site.kernel for site in sites], SliceShape(*sizes), code_size)
        built |= {site.name: one for site, one in zip(sites, made, strict=True)}
    return built


def _checked(site: Site, choice: Configuration) -> tuple[int, ...]:
    """Returns code size and slice shape (out, in, height, width)."""
    some = range(1, 1 << 20)
    names = [field.name for field in dataclasses.fields(SliceShape)]
    accepted = {"code_size": some, **dict.fromkeys(names, some)}
    code_size, *sizes = checked_settings(site, choice, accepted)
    try:
        check_code_size(code_size, SliceShape(*sizes))
    except UserError as error:
        raise UserError(f"site {site.name}: {error}") from error
    return (code_size, *sizes)
