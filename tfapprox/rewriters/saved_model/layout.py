"""Lays out signatures: which linear operations run, at which shapes, for one example."""

import dataclasses
from collections.abc import Mapping, Sequence

from tensorflow.core.protobuf import meta_graph_pb2

from tfapprox.rewriters.saved_model.body import producer_of
from tfapprox.rewriters.saved_model.matching import LINEAR
from tfapprox.rewriters.saved_model.shapes import Occurrence, Shape, ShapeInference
from tfapprox.rewriters.saved_model.tracing import Tracer
from tfapprox.rewriters.saved_model.variables import VariableTable
from tfapprox.serving.signature import Signature, TensorSpec

_ASSUMED_SEQUENCE, _ASSUMED_IMAGE = 128, 224


@dataclasses.dataclass(frozen=True)
class Layout:
    """The linear operations of one signature in order of execution.

    Attributes:
      places: where they run.
      assumed: what was assumed of sizes that the signature leaves open, "" if nothing.
    """

    places: Sequence[Occurrence]
    assumed: str = ""


class SignatureLayouts:
    """Lays out signatures of one MetaGraph."""

    def __init__(
        self,
        meta: meta_graph_pb2.MetaGraphDef,
        tracer: Tracer,
        table: VariableTable,
        example_shapes: Mapping[str, Sequence[int]],
    ):
        """Args: example_shapes: input key -> shape, for the sizes that a signature leaves open."""
        self._meta, self._tracer = meta, tracer
        self._sizes = {key: variable.shape for key, variable in table.variables.items()}
        self._example_shapes = example_shapes

    def lay_out(self, signatures: Mapping[str, Signature]) -> dict[str, Layout]:
        """Returns the layouts of those signatures that show something the first ones don't."""
        layouts: dict[str, Layout] = {}
        seen: set[int] = set()
        for name, signature in signatures.items():
            definition = self._meta.signature_def[name]
            outputs = [producer_of(t.name) for t in definition.outputs.values() if t.name]
            main = self._tracer.main
            needed = main.body.reachable(outputs)
            linear = {
                id(instance)
                for instance in self._tracer.instances_behind(needed)
                if any(node.op in LINEAR for node in instance.body.nodes.values())
            }
            if any(main.body.nodes[node].op in LINEAR for node in needed):
                linear.add(id(outputs))
            if not layouts or linear - seen:
                layouts[name] = self._lay_out(signature, definition, outputs)
            seen |= linear
        return layouts

    def _lay_out(
        self, signature: Signature, definition: meta_graph_pb2.SignatureDef, outputs: list[str]
    ) -> Layout:
        shapes = {key: self._input_shape(key, spec) for key, spec in signature.inputs.items()}
        places = self._infer(shapes, definition, outputs)
        unknown = any(n is None for shape in shapes.values() for n in shape or ())
        if not unknown or all(_is_known(place) for place in places):
            return Layout(places)
        guessed = {key: _guess(shape) for key, shape in shapes.items()}
        remarks = [
            f"input {key} taken as {list(guessed[key] or ())}"
            for key in shapes
            if guessed[key] != shapes[key]
        ]
        return Layout(self._infer(guessed, definition, outputs), "; ".join(remarks))

    def _infer(
        self,
        shapes: Mapping[str, Shape],
        definition: meta_graph_pb2.SignatureDef,
        outputs: list[str],
    ) -> list[Occurrence]:
        inputs = {
            producer_of(tensor.name): shapes[key]
            for key, tensor in definition.inputs.items()
            if tensor.name
        }
        inference = ShapeInference(LINEAR, self._sizes)
        inference.run(self._tracer.main, inputs, outputs)
        return inference.occurrences

    def _input_shape(self, key: str, spec: TensorSpec) -> Shape:
        given = self._example_shapes.get(key)
        shape = spec.shape
        if given and spec.admits(tuple(given)):
            shape = tuple(given) if shape is None else _merge(shape, given)
        if shape and (spec.shape is None or spec.shape[0] is None):
            return (1, *shape[1:])
        return shape


def _merge(shape: Sequence[int | None], given: Sequence[int]) -> tuple[int, ...]:
    return tuple(b if a is None else a for a, b in zip(shape, given, strict=True))


def _is_known(place: Occurrence) -> bool:
    return all(shape is not None and None not in shape for shape in place.inputs[:2])


def _guess(shape: Shape) -> Shape:
    if shape is None:
        return None
    size = _ASSUMED_IMAGE if len(shape) > 3 else _ASSUMED_SEQUENCE
    return tuple(size if n is None else n for n in shape)
