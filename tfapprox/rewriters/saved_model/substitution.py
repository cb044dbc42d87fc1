"""What one rewrite substitutes: kernels, the factors in their place, and what those are called."""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.generated import GeneratedStage
from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.generation import GENERATOR
from tfapprox.rewriters.saved_model.objects import slot_variables_of
from tfapprox.rewriters.saved_model.replacements import FactorTensor, Replacement
from tfapprox.rewriters.saved_model.sites import KernelUses
from tfapprox.rewriters.saved_model.source import SavedModelSource
from tfapprox.rewriters.saved_model.specialising import Specialiser

_CHECKPOINT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_FACTOR_SUFFIX = re.compile(r"(_factor_\d+)+(?=$|/\.ATTRIBUTES)")


class Substitution:
    """Kernels that go and factors that come, with their names everywhere.

    Attributes:
      source: the opened model.
      replacements: kernels with what stands in for them.
      factors: all tensors that come.
      specialiser: makes the functions' new versions, for Python.
      served: makes those that the main graph calls; the same unless kernels are folded.
      removed: keys of the variables that give way to factors.
      forgotten: keys that the checkpoint no longer holds: the removed ones, second copies
        of others, and optimizers' moments of removed ones.
    """

    def __init__(self, source: SavedModelSource, replacements: Mapping[str, Factorization]):
        self.source = source
        self.factors: list[FactorTensor] = []
        self._generators: dict[tuple[int, bool], int] = {}
        self._sharers = Counter(root for kernel in source.kernels for root in kernel.roots)
        self.replacements = self._plan(replacements)
        self.specialiser = Specialiser(source.tracer, self.replacements, self.factors)
        self.served = self.specialiser
        if any(replacement.served for replacement in self.replacements):
            served = [replacement.served or replacement for replacement in self.replacements]
            self.served = Specialiser(source.tracer, served, self.factors, self.specialiser)
        variables = source.table.variables
        self.removed = {key for key in self.specialiser.removed if key in variables}
        self.forgotten = frozenset((*self.removed, *source.duplicates, *self._slot_keys()))
        self._keys: list[str] = []
        self._ordinals: Counter[str] = Counter()

    def _plan(self, replacements: Mapping[str, Factorization]) -> list[Replacement]:
        sites = {k.name: k for k in self.source.kernels if not k.reason}
        unknown = sorted(set(replacements) - set(sites))
        if unknown:
            raise UserError(f"no site is called {unknown[0]!r}; see inspect for the names")
        chosen = {name: (sites[name], replacements[name]) for name in replacements}
        roots = {root for kernel, _ in chosen.values() for root in kernel.roots}
        for kernel in sites.values():
            if kernel.name not in chosen and kernel.roots & roots:
                # It shares a variable with a replaced one, so it must hold its own part.
                whole = Factorization((Stage(np.ascontiguousarray(kernel.first.kernel)),))
                chosen[kernel.name] = (kernel, whole)
        return [
            self._replacement(kernel, factorization) for kernel, factorization in chosen.values()
        ]

    def _replacement(self, kernel: KernelUses, factorization: Factorization) -> Replacement:
        _check_fit(kernel, factorization)
        variables = sorted(
            (r for r in kernel.roots if r in self.source.table.variables),
            key=lambda r: (self._sharers[r], -self.source.table.variables[r].size, r),
        )
        base = self.source.table.variables[variables[0]].name if variables else kernel.name
        variable = variables[0] if variables else None
        flat = kernel.first.kind in ("dense", "einsum")
        values = [
            np.ascontiguousarray(stage.kernel[0, 0] if flat else stage.kernel)
            for stage in factorization.stages
        ]
        if isinstance(factorization.stages[0], GeneratedStage):
            return self._generated(kernel, factorization, values[0], base, variable)
        indices = [
            self._add(FactorTensor(kernel.name, self.factor_name(base, number), value, variable))
            for number, value in enumerate(values)
        ]
        return Replacement(kernel, factorization, tuple(indices), kernel.first.kernel.shape)

    def _generated(
        self,
        kernel: KernelUses,
        factorization: Factorization,
        value: np.ndarray,
        base: str,
        variable: str | None,
    ) -> Replacement:
        """Returns codes and generator, and for the main graph one kernel folded from them.

        A constant kernel needs no folding: TensorFlow computes it once by itself.
        """
        (stage,) = factorization.stages
        assert isinstance(stage, GeneratedStage)
        name = self.factor_name(base, 0)
        codes = self._add(FactorTensor(kernel.name, name, stage.codes, variable))
        shared = (id(stage.generator), variable is None)
        if shared not in self._generators:
            self._generators[shared] = self._add(
                FactorTensor(kernel.name, GENERATOR, stage.generator, variable)
            )
        factors = (codes, self._generators[shared])
        served = None
        if variable is not None:
            dense = Factorization((Stage(stage.kernel),))
            whole = FactorTensor(kernel.name, f"{base}_generated", value, variable, factors)
            served = Replacement(kernel, dense, (self._add(whole),), value.shape)
        return Replacement(kernel, factorization, factors, value.shape, served)

    def _add(self, factor: FactorTensor) -> int:
        self.factors.append(factor)
        return len(self.factors) - 1

    def factor_name(self, base: str, number: int) -> str:
        """Returns the name of a factor's variable; `base` is the replaced one's."""
        return f"{base}_factor_{number}"

    def _slot_keys(self) -> set[str]:
        table = self.source.table
        objects = {n for key in self.removed for n in table.variables[key].objects}
        slots = slot_variables_of(self.source.files.meta.object_graph_def, objects)
        return {table.of_object[n] for n in slots if n in table.of_object}

    def key(self, index: int) -> str:
        """Returns the checkpoint's name for a factor."""
        for factor in self.factors[len(self._keys) : index + 1]:
            variable = factor.variable or factor.site
            path, suffix, _ = variable.partition("|")[0].partition(_CHECKPOINT_SUFFIX)
            key = ""
            while not key or key in self.source.files.tensor_shapes:
                key = f"{path}_factor_{self._ordinals[variable]}{suffix}"
                self._ordinals[variable] += 1
            self._keys.append(key)
        return self._keys[index]

    def indices_by_variable(self) -> dict[str, list[int]]:
        """Returns removed variable -> factors that stand in for it."""
        found: dict[str, list[int]] = {key: [] for key in sorted(self.removed)}
        for index, factor in enumerate(self.factors):
            if factor.variable is not None and factor.stored:
                found[factor.variable].append(index)
        return found


class RestoredNames(Substitution):
    """Gives dense kernels the names that the original ones had."""

    def factor_name(self, base: str, number: int) -> str:
        """See the base class."""
        return without_suffix(base)

    def key(self, index: int) -> str:
        """See the base class."""
        forgotten = {key.partition("|")[0] for key in self.forgotten}
        taken = set(self.source.files.tensor_shapes) - forgotten
        for position in range(index + 1):
            path, suffix, rest = without_suffix(super().key(position)).partition("/.ATTRIBUTES")
            count, key = 0, path + suffix + rest
            while key in taken:
                count += 1
                key = f"{path}_{count}{suffix}{rest}"
            taken.add(key)
        return key


def without_suffix(name: str) -> str:
    """Returns the name of what a factor, or a factor of a factor, was made from."""
    return _FACTOR_SUFFIX.sub("", name)


def _check_fit(kernel: KernelUses, factorization: Factorization) -> None:
    first, last = factorization.stages[0].shape, factorization.stages[-1].shape
    wanted = kernel.first.kernel.shape
    if (first.in_channels, last.out_channels) != wanted[2:]:
        raise UserError(
            f"the factorization of {kernel.name} maps {first.in_channels} to "
            f"{last.out_channels} channels, but its kernel is {list(wanted)}"
        )
