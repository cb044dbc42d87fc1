"""Gathers the uses of static kernels into sites: one for each distinct kernel."""

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError
from tfapprox.rewriters.inspection import KeptOperation
from tfapprox.rewriters.saved_model.body import CALLS, FreshNames, producer_of
from tfapprox.rewriters.saved_model.composing import is_composable
from tfapprox.rewriters.saved_model.costs import kept_macs
from tfapprox.rewriters.saved_model.generation import GENERATOR, codes_of
from tfapprox.rewriters.saved_model.matching import (
    KEPT,
    LINEAR,
    Match,
    Refused,
    geometries,
    match,
)
from tfapprox.rewriters.saved_model.provenance import Handle, Provenance, Static, same_kernel_key
from tfapprox.rewriters.saved_model.shapes import Occurrence, Shape
from tfapprox.rewriters.saved_model.tracing import LOOPS, Instance
from tfapprox.rewriters.saved_model.variables import VariableTable

# A root much smaller than the kernel (a scale, a zero point) does not stand for it.
_SIGNIFICANT_SHARE = 64
_ORDINARY_NAMES = re.compile(r"^(variable|kernel|weights?|w|v|const)?(_\d+)?$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class SiteUse:
    """One node that uses a site's kernel; `flipped` if it uses it transposed."""

    instance: Instance
    node: str
    match: Match
    flipped: bool


@dataclasses.dataclass(eq=False)
class KernelUses:
    """One distinct kernel, all its uses, and what it is made from.

    Attributes:
      name: unique and stable.
      first: the match that was found first; it gives kind, kernel and layout.
      uses: every use, in order of execution.
      roots: variables and constants that hold the kernel's entries.
      geometries: of the uses that count for costs.
      assumed: what was assumed of unknown sizes.
      reason: why it can't be a site, "" if it can.
      composed_in: ids of instances that read the whole variable, to be composed there.
    """

    name: str
    first: Match
    uses: list[SiteUse]
    roots: frozenset[str]
    geometries: list[Geometry] = dataclasses.field(default_factory=list)
    assumed: str = ""
    reason: str = ""
    composed_in: set[int] = dataclasses.field(default_factory=set)

    @property
    def site(self) -> Site:
        places = tuple(self.geometries) or (Geometry(),)
        return Site(self.name, self.first.kind, self.first.kernel, places, self.assumed)


class SiteFinder:
    """Finds kernels and their uses; see the attributes for what it finds.

    Attributes:
      kernels: sites and those with a reason against it, in order of execution.
      refused: (instance, node, reason) of linear operations without a kernel to factorize.
    """

    def __init__(self, provenance: Provenance, table: VariableTable):
        self._provenance, self._table = provenance, table
        self._by_key: dict[tuple, KernelUses] = {}
        self._names = FreshNames(())
        self._matched: dict[tuple[int, str], Match] = {}
        self.kernels: list[KernelUses] = []
        self.refused: dict[tuple[int, str], tuple[Instance, str, str]] = {}

    def add(self, instance: Instance, name: str, x_shape: Shape) -> None:
        """Looks at one linear node, once."""
        if (id(instance), name) in self._matched or (id(instance), name) in self.refused:
            return
        node = instance.body.nodes[name]
        if instance.body.reference(name, node.op) in instance.values:
            return  # a step on the way of a kernel, no product with activations
        values = instance.static_inputs.get(name, {})
        try:
            if node.op in KEPT:
                raise Refused(KEPT[node.op])
            found = match(
                node, values, x_shape, lambda kernel: same_kernel_key(kernel) in self._by_key
            )
        except Refused as refusal:
            self.refused[id(instance), name] = (instance, name, str(refusal))
            return
        self._matched[id(instance), name] = found
        self._add_use(instance, name, found)

    def matched(self, instance: Instance, name: str) -> tuple[KernelUses, Match] | None:
        """Returns the kernel that a node uses."""
        found = self._matched.get((id(instance), name))
        return (self._kernel_of(found)[0], found) if found is not None else None

    def _kernel_of(self, found: Match) -> tuple[KernelUses, bool]:
        key = same_kernel_key(found.kernel)
        if key in self._by_key:
            return self._by_key[key], False
        flipped = _flipped_key(found)
        assert flipped is not None
        return self._by_key[flipped], True

    def _add_use(self, instance: Instance, name: str, found: Match) -> None:
        key, other = same_kernel_key(found.kernel), _flipped_key(found)
        if key not in self._by_key and other in self._by_key:
            self._by_key[other].uses.append(SiteUse(instance, name, found, True))
            return
        if key not in self._by_key:
            kernel = self._new_kernel(instance, name, found)
            self._by_key[key] = kernel
            self.kernels.append(kernel)
        self._by_key[key].uses.append(SiteUse(instance, name, found, False))

    def _new_kernel(self, instance: Instance, node: str, found: Match) -> KernelUses:
        roots = self.significant_roots(found.source, found.kernel.size)
        name = self._names.get(self._name(roots, node))
        with np.errstate(all="ignore"):
            finite = bool(np.isfinite(found.kernel).all())
        if not finite:
            raise UserError(
                f"kernel of {name} holds NaN or Inf: the model is damaged or badly trained; "
                "export it again"
            )
        return KernelUses(name, found, [], roots)

    def significant_roots(self, source: Static, size: int) -> frozenset[str]:
        """Returns the roots that hold a good part of a value of `size` entries."""
        if codes_of(source) is not None:
            return source.roots  # codes are small, and make the kernel what it is
        sizes = self._provenance.root_sizes
        return frozenset(r for r in source.roots if sizes[r] * _SIGNIFICANT_SHARE >= size)

    def is_composable(self, kernel: KernelUses, root: str) -> bool:
        """Says whether a variable can be computed from the factors of its kernel."""
        if root not in self._table.variables:
            return False
        value = self._provenance.variable(root, self._table.variables[root].size)
        return is_composable(kernel.first.kernel, value.value)

    def reads_whole(self, instance: Instance, name: str, index: int) -> bool:
        """Says whether what an input reads starts from whole variables in its function."""
        body = instance.body
        stack = [body.data_inputs(body.nodes[name])[index]]
        seen: set[str] = set()  # there are exponentially many paths
        while stack:
            reference = stack.pop()
            if reference in seen:
                continue
            seen.add(reference)
            value = instance.values.get(reference)
            if value is None or isinstance(value, Handle) or value.op in ("Variable", "Const"):
                continue
            producer = producer_of(reference)
            if producer not in body.nodes or producer in instance.calls:
                return False
            stack += body.data_inputs(body.nodes[producer])
        return True

    def _name(self, roots: frozenset[str], node: str) -> str:
        variables = sorted(r for r in roots if r in self._table.variables)
        if variables:
            known = self._table.variables
            largest = max(variables, key=lambda r: (known[r].name != GENERATOR, known[r].size))
            return readable_name(self._table.variables[largest].name, largest)
        scope, _, last = node.rpartition("/")
        return scope if scope and last.rstrip("_0123456789") in (*LINEAR, "convolution") else node


def readable_name(variable: str, key: str) -> str:
    """Returns a site's name from its variable's name and, where that says little, its key."""
    scope, _, last = variable.rpartition("/")
    if scope and _ORDINARY_NAMES.match(last):
        return scope
    if not _ORDINARY_NAMES.match(variable):
        return variable
    path = key.partition("/.ATTRIBUTES")[0].partition("|")[0]
    scope, _, last = path.rpartition("/")
    return scope if scope and _ORDINARY_NAMES.match(last.lstrip("_")) else path


def _flipped_key(found: Match) -> tuple | None:
    if found.form not in ("matmul", "batch_matmul"):
        return None
    return same_kernel_key(found.kernel.swapaxes(2, 3))


def count_occurrences(finder: SiteFinder, occurrences: Iterable[Occurrence], assumed: str) -> None:
    """Adds the geometry of every occurrence in one signature to its kernel."""
    for place in occurrences:
        found = finder.matched(place.instance, place.node)
        if found is None:
            continue
        kernel, matched = found
        node = place.instance.body.nodes[place.node]
        places, known = geometries(matched, node, place)
        kernel.geometries.extend(places)
        remarks = [] if known else ["some sizes are unknown and count as 1"]
        if assumed and known:
            remarks.append(assumed)
        if not place.repeats_known:
            remarks.append("a loop of unknown length counts as one step")
        kernel.assumed = kernel.assumed or "; ".join(remarks)


def kept_operation(
    finder: SiteFinder, place: Occurrence, reason: str, table: VariableTable
) -> KeptOperation:
    """Returns the report of a linear operation that stays."""
    node = place.instance.body.nodes[place.node]
    values = place.instance.static_inputs.get(place.node, {})
    name = place.node
    for value in values.values():
        variables = [r for r in value.roots if r in table.variables]
        if variables and node.op not in CALLS and node.op not in LOOPS:
            largest = max(variables, key=lambda r: (table.variables[r].size, r))
            name = readable_name(table.variables[largest].name, largest)
    return KeptOperation(name, node.op, reason, Cost(macs=kept_macs(node, place)))
