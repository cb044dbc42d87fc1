"""Gives every instance that meets a replaced kernel its own version of its function.

Versions come without the arguments that brought the kernel and with arguments for the
factors; calls are redirected to them. Functions that all their instances change alike
keep their names.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tensorflow.core.framework import function_pb2

from tfapprox.rewriters.saved_model.body import FreshNames, producer_of
from tfapprox.rewriters.saved_model.body_rewriting import BodyRewriter
from tfapprox.rewriters.saved_model.pruning import CHAIN_OPS
from tfapprox.rewriters.saved_model.replacements import FactorTensor, Replacement, Version
from tfapprox.rewriters.saved_model.sites import SiteUse
from tfapprox.rewriters.saved_model.tracing import Instance, Tracer


class Specialiser:
    """Rewrites functions and main graph for a set of replacements.

    Attributes:
      functions: the new function library, name -> FunctionDef.
      removed: keys and digests of the roots that nothing may need any more.
    """

    def __init__(
        self,
        tracer: Tracer,
        replacements: Sequence[Replacement],
        factors: Sequence[FactorTensor],
        beside: "Specialiser | None" = None,
    ):
        """Args: beside: makes other versions for the same library, and keeps the names."""
        self.factors = factors
        roots: frozenset[str] = frozenset().union(*(r.kernel.roots for r in replacements))
        folded = {key for key, value in tracer.folded.items() if value.roots & roots}
        self.removed = roots | folded
        self._tracer = tracer
        self._uses: dict[int, dict[str, tuple[Replacement, SiteUse]]] = defaultdict(dict)
        self._composed: dict[int, list[Replacement]] = defaultdict(list)
        for replacement in replacements:
            for identity in replacement.kernel.composed_in:
                self._composed[identity].append(replacement)
            for use in replacement.kernel.uses:
                self._uses[id(use.instance)][use.node] = (replacement, use)
        library = {name: body.proto for name, body in tracer.functions.items()}
        self.functions: dict[str, function_pb2.FunctionDef] = (
            library if beside is None else beside.functions
        )
        self._local = {
            (id(i), node): self._is_local(i, use)
            for i in tracer.instances
            for node, (_, use) in self._uses.get(id(i), {}).items()
        }
        self._needs: dict[int, tuple[int, ...]] = {}
        self._changed: dict[int, bool] = {}
        for instance in tracer.instances:
            self._survey(instance)
        self._versions: dict[tuple, Version] = {}
        self._contents: dict[bytes, str] = {}
        self._named: set[str] = set()
        names: FreshNames | None = None if beside is None else beside._names
        self._names: FreshNames = names or FreshNames(self.functions)
        self._owners = self._choose_owners() if beside is None else {}

    def _survey(self, instance: Instance) -> None:
        needs: set[int] = set()
        uses = self._uses.get(id(instance), {})
        for node, (replacement, _) in uses.items():
            if not self._local[id(instance), node]:
                needs.update(replacement.factors)
        for replacement in self._composed[id(instance)]:
            needs.update(replacement.factors)
        callees = [c for call in instance.calls.values() for c in call.callees.values()]
        for callee in callees:
            needs.update(self._needs[id(callee)])
        self._needs[id(instance)] = tuple(sorted(needs))
        self._changed[id(instance)] = bool(
            uses
            or self.dropped(instance)
            or self.lost(instance)
            or self._composed[id(instance)]
            or any(self._changed[id(c)] for c in callees)
        )

    def _is_local(self, instance: Instance, use: SiteUse) -> bool:
        """Says whether the kernel is a constant of the same function body."""
        if any(not root.startswith("const:") for root in use.match.source.roots):
            return False
        body = instance.body
        names = [producer_of(body.data_inputs(body.nodes[use.node])[use.match.operand])]
        while names:
            name = names.pop()
            if name not in body.nodes or body.nodes[name].op not in CHAIN_OPS:
                return False
            names += map(producer_of, body.data_inputs(body.nodes[name]))
        return True

    def dropped(self, instance: Instance) -> tuple[int, ...]:
        """Returns the positions of arguments bound to what is removed."""
        return tuple(
            i for i, v in enumerate(instance.bindings) if v is not None and v.roots & self.removed
        )

    def lost(self, instance: Instance) -> tuple[int, ...]:
        """Returns the positions of outputs that are values of what is removed."""
        return tuple(
            i for i, v in enumerate(instance.returns) if v is not None and v.roots & self.removed
        )

    def changed(self, instance: Instance) -> bool:
        return self._changed[id(instance)]

    def needs(self, instance: Instance) -> tuple[int, ...]:
        return self._needs[id(instance)]

    def _choose_owners(self) -> dict[str, int]:
        """Returns function name -> instance whose version may keep the name."""
        owners: dict[str, int] = {}
        kept = {i.body.name for i in self._tracer.instances if not self.changed(i)}
        candidates = [*self._tracer.entries.values(), *self._tracer.instances]
        for instance in candidates:
            if self.changed(instance) and instance.body.name not in kept:
                owners.setdefault(instance.body.name, id(instance))
        return owners

    def version(
        self, instance: Instance, added: tuple[int, ...] | None = None, returns: bool = False
    ) -> Version:
        """Returns the rewritten function for an instance, made on first use.

        Args:
          instance: of a function that changes, or must take `added` arguments.
          added: factors it gets; what it needs itself by default.
          returns: hand the added arguments on as last outputs, as a loop's body does.
        """
        added = self.needs(instance) if added is None else added
        key = (id(instance), added, returns)
        if key not in self._versions:
            name = self._name(instance)
            proto = BodyRewriter(self, instance, added).function(name, returns)
            self._versions[key] = self._shared(instance, proto, added)
        return self._versions[key]

    def _name(self, instance: Instance) -> str:
        name = instance.body.name
        if self._owners.get(name) == id(instance) and name not in self._named:
            self._named.add(name)
            return name
        # TensorFlow's fingerprint wants every function's name to end in a number.
        return self._names.get(f"{name}_version_0")

    def _shared(
        self, instance: Instance, proto: function_pb2.FunctionDef, added: tuple[int, ...]
    ) -> Version:
        """Stores a function, or finds the equal one that another instance led to."""
        content = function_pb2.FunctionDef()
        content.CopyFrom(proto)
        content.signature.name = instance.body.name
        identity = content.SerializeToString(deterministic=True)
        own = proto.signature.name
        name = own if own == instance.body.name else self._contents.setdefault(identity, own)
        if name == own:
            self.functions[name] = proto
        return Version(name, self.dropped(instance), self.lost(instance), added)

    def uses(self, instance: Instance) -> Mapping[str, tuple[Replacement, SiteUse]]:
        return self._uses.get(id(instance), {})

    def composed(self, instance: Instance) -> list[Replacement]:
        """Returns the replacements whose variables the instance reads as a whole."""
        return self._composed.get(id(instance), [])

    def is_local(self, instance: Instance, node: str) -> bool:
        return self._local[id(instance), node]
