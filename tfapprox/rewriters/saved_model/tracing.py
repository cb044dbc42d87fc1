"""Follows variables and constants through calls, branches and loops of a SavedModel.

A function is looked at once for each distinct way its arguments are bound to
variables and constants: an `Instance`. So one function called with two kernels is two
instances, and one call deep inside others still knows which variable it reads.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import dtypes

from tfapprox.errors import UserError
from tfapprox.rewriters.saved_model.body import CALLS, Body, attribute, producer_of
from tfapprox.rewriters.saved_model.provenance import Handle, Provenance, Static, Value
from tfapprox.rewriters.saved_model.variables import REFERENCE_VARIABLES, Variable, VariableTable

LOOPS = ("While", "StatelessWhile")
BRANCHES = {
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
    "Case": ("branches",),
    "StatelessCase": ("branches",),
}
_DEEPEST_NESTING = 200
Bindings = tuple[Value | None, ...]


@dataclasses.dataclass(eq=False)
class Call:
    """A node that runs functions of the library on its inputs.

    Attributes:
      node: its name.
      callees: (attribute, index in its list) -> instance.
      offset: inputs before the first one that is handed on (1 for the branch index).
      invariants: for loops, the loop variables that the body hands on unchanged.
    """

    node: str
    callees: dict[tuple[str, int], "Instance"]
    offset: int = 0
    invariants: frozenset[int] = frozenset()


@dataclasses.dataclass(eq=False)
class Instance:
    """A function (or the main graph) with its arguments bound.

    Attributes:
      body: its graph.
      bindings: per argument, what it is bound to, None for activations.
      values: reference -> handle or static value, wherever known.
      calls: node name -> call.
      static_inputs: nodes that are not static themselves but read something static:
        node name -> {data input index: value}.
    """

    body: Body
    bindings: Bindings
    values: dict[str, Value] = dataclasses.field(default_factory=dict)
    calls: dict[str, Call] = dataclasses.field(default_factory=dict)
    static_inputs: dict[str, dict[int, Value]] = dataclasses.field(default_factory=dict)

    @property
    def returns(self) -> list[Value | None]:
        return [self.values.get(reference) for reference in self.body.returns.values()]


class Tracer:
    """Traces the main graph, every concrete function, and whatever nobody calls.

    Attributes:
      main: instance of the main graph.
      entries: concrete function name -> instance with its captures bound.
      instances: all of them, callees before callers.
      folded: variables that restoring computes -> their values.
    """

    def __init__(
        self,
        main: Body,
        functions: Mapping[str, Body],
        table: VariableTable,
        provenance: Provenance,
        ignored: Iterable[str] = (),
        folded: Mapping[str, Static] | None = None,
    ):
        """Args:
        ignored: main-graph nodes that are not followed (saving and restoring).
        folded: key of a variable that restoring computes -> its value.
        """
        self.functions, self.provenance, self.folded = functions, provenance, folded or {}
        self._table, self._ignored = table, frozenset(ignored)
        self._traced: dict[tuple, Instance | None] = {}
        self._depth = 0
        self.instances: list[Instance] = []
        self.entries: dict[str, Instance] = {}
        self.main = self._trace(main, ())

    def trace_entries(self, bound_values: Mapping[str, list[Value | None]]) -> None:
        """Traces functions by name, each with values for its last arguments (captures)."""
        for name, values in bound_values.items():
            body = self.function(name)
            free = len(body.arguments) - len(values)
            self.entries[name] = self._trace(body, (None,) * free + tuple(values))
        reached = {instance.body.name for instance in self.instances}
        for name in self.functions:
            if name not in reached and name not in self._ignored_functions():
                self._trace(self.functions[name], (None,) * len(self.functions[name].arguments))

    def function(self, name: str) -> Body:
        """Returns the function's body.

        Raises:
          UserError: the library lacks it.
        """
        if name not in self.functions:
            raise UserError(f"saved_model.pb is damaged: function {name!r} is missing")
        return self.functions[name]

    def variable(self, key: str) -> Variable:
        return self._table.variables[key]

    def instances_behind(self, main_nodes: Iterable[str]) -> list[Instance]:
        """Returns the instances of functions that run when main-graph nodes run."""
        found: dict[int, Instance] = {}
        calls = [self.main.calls[name] for name in main_nodes if name in self.main.calls]
        while calls:
            for callee in calls.pop().callees.values():
                if id(callee) not in found:
                    found[id(callee)] = callee
                    calls += callee.calls.values()
        return list(found.values())

    def agreed_outputs(self, instance: Instance, call: Call) -> list[Value | None]:
        """Returns what is known of a call's outputs."""
        node = instance.body.nodes[call.node]
        inputs = [instance.values.get(x) for x in instance.body.data_inputs(node)]
        return _call_outputs(call, node, inputs)

    def _ignored_functions(self) -> set[str]:
        nodes = (self.main.body.nodes[name] for name in self._ignored)
        return {attribute(node, "f").func.name for node in nodes if node.op in CALLS}

    def _trace(self, body: Body, bindings: Bindings) -> Instance:
        key = (body.name, tuple(_identity(value) for value in bindings))
        if key in self._traced:
            known = self._traced[key]
            if known is None:
                raise UserError(f"function {body.name!r} calls itself, which is not supported")
            return known
        self._traced[key] = None
        self._depth += 1
        if self._depth > _DEEPEST_NESTING:
            raise UserError(f"functions are nested more than {_DEEPEST_NESTING} deep")
        instance = Instance(body, bindings)
        for argument, value in zip(body.arguments, bindings, strict=True):
            if value is not None:
                instance.values[argument] = value
        for name in body.order:
            if body.name or name not in self._ignored:
                self._visit(instance, body.nodes[name])
        self._depth -= 1
        self._traced[key] = instance
        self.instances.append(instance)
        return instance

    def _visit(self, instance: Instance, node: node_def_pb2.NodeDef) -> None:
        body = instance.body
        if node.op in CALLS or node.op in LOOPS or node.op in BRANCHES:
            self._visit_call(instance, node)
            return
        inputs = [instance.values.get(reference) for reference in body.data_inputs(node)]
        outputs = self._static_outputs(instance, node, inputs)
        if outputs:
            references = body.output_references(node, len(outputs))
            instance.values.update(zip(references, outputs, strict=True))
            return
        known = {i: value for i, value in enumerate(inputs) if value is not None}
        if known:
            instance.static_inputs[node.name] = known

    def _static_outputs(
        self, instance: Instance, node: node_def_pb2.NodeDef, inputs: list[Value | None]
    ) -> list[Value]:
        if node.op == "Const":
            numeric = dtypes.as_dtype(attribute(node, "dtype").type)
            usable = numeric.is_floating or numeric.is_integer or numeric.is_bool
            return [self.provenance.constant(node)] if usable else []
        if not instance.body.is_function and node.name in self._table.of_handle:
            key = self._table.of_handle[node.name]
            if node.op in REFERENCE_VARIABLES:
                return [self._read(key)]
            return [Handle(key)]
        first = inputs[0] if inputs else None
        if first is None or any(value is None for value in inputs):
            return []
        if isinstance(first, Handle):
            if node.op == "ReadVariableOp":
                return [self._read(first.key)]
            return [first] if node.op == "Identity" or _is_constant_enter(node) else []
        if _is_constant_enter(node):
            return [first]
        statics = [value for value in inputs if isinstance(value, Static)]
        if len(statics) != len(inputs):
            return []
        made = [
            self.provenance.operation(node, statics, index) for index in range(output_count(node))
        ]
        return [value for value in made if value is not None]

    def _read(self, key: str) -> Static:
        """Returns what reading a variable gives."""
        if key in self.folded:
            return self.folded[key]
        return self.provenance.variable(key, self.variable(key).size)

    def _visit_call(self, instance: Instance, node: node_def_pb2.NodeDef) -> None:
        inputs = [instance.values.get(x) for x in instance.body.data_inputs(node)]
        call = Call(node.name, {})
        if node.op in LOOPS:
            body = self.function(attribute(node, "body").func.name)
            call.invariants = _invariants(body)
            bound = tuple(v if i in call.invariants else None for i, v in enumerate(inputs))
            slots = [("cond", 0), ("body", 0)]
        elif node.op in BRANCHES:
            call.offset = 1
            bound = tuple(inputs[1:])
            slots = [
                (slot, index)
                for slot in BRANCHES[node.op]
                for index in range(max(1, len(attribute(node, slot).list.func)))
            ]
        else:
            bound, slots = tuple(inputs), [("f", 0)]
        for slot, index in slots:
            name = callee_name(node, slot, index)
            callee = self.function(name)
            if len(callee.arguments) != len(bound):
                raise UserError(
                    f"saved_model.pb is damaged: node {node.name} calls {name} with "
                    f"{len(bound)} inputs for {len(callee.arguments)} arguments"
                )
            call.callees[slot, index] = self._trace(callee, bound)
        instance.calls[node.name] = call
        outputs = _call_outputs(call, node, inputs)
        references = instance.body.output_references(node, len(outputs))
        for reference, value in zip(references, outputs, strict=True):
            if value is not None:
                instance.values[reference] = value


def callee_name(node: node_def_pb2.NodeDef, slot: str, index: int) -> str:
    """Returns the function that an attribute of a call names."""
    value = attribute(node, slot)
    return value.list.func[index].name if value.list.func else value.func.name


def output_count(node: node_def_pb2.NodeDef) -> int:
    """Returns how many entries the (only) output argument of the node has."""
    if node.op in ("Split", "SplitV"):
        return attribute(node, "num_split").i
    return attribute(node, "num").i if node.op == "Unpack" else 1


def _identity(value: Value | None) -> object:
    return id(value) if isinstance(value, Static) else value


def _is_constant_enter(node: node_def_pb2.NodeDef) -> bool:
    return node.op == "Enter" and attribute(node, "is_constant").b


def _invariants(body: Body) -> frozenset[int]:
    """Returns the loop variables that a loop's body returns as it got them."""
    found = set()
    for index, reference in enumerate(body.returns.values()):
        while reference not in body.arguments:
            node = body.nodes.get(producer_of(reference))
            if node is None or node.op != "Identity":
                break
            reference = body.data_inputs(node)[0]
        if reference in body.arguments and body.arguments.index(reference) == index:
            found.add(index)
    return frozenset(found)


def _call_outputs(
    call: Call, node: node_def_pb2.NodeDef, inputs: list[Value | None]
) -> list[Value | None]:
    if node.op in LOOPS:
        return [v if i in call.invariants else None for i, v in enumerate(inputs)]
    returns = [callee.returns for callee in call.callees.values()]
    if len(returns) == 1:
        return returns[0]
    # Branches may return different values: only what all agree on is known.
    return [
        values[0] if all(v is values[0] for v in values) else None
        for values in zip(*returns, strict=True)
    ]
