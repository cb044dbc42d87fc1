"""Carries an optimizer's state over to a model that has lost and gained variables."""

from collections.abc import Collection, Iterator
from typing import Any

from tfapprox.rewriters.keras_graph import layers_by_path


def carry_optimizer_state(source: Any, target: Any, replaced: Collection[str]) -> None:
    """Gives `target`'s optimizer what `source`'s knows about variables that both have.

    Step count, learning rate, loss scale and the like go over whole. Slots (momenta,
    accumulators) go over for variables of layers that are not replaced, and for biases
    of those that are; new kernels start with the slots that the optimizer gives to any
    new variable.

    Args:
      source, target: Keras 3 models, compiled with optimizers of one kind.
      replaced: paths, as in `layers_by_path`, of layers whose kernel is another one.
    """
    pairs = list(shared_variables(source, target, replaced))
    _carry(_built(source), _built(target), pairs)


def shared_variables(
    source: Any, target: Any, replaced: Collection[str]
) -> Iterator[tuple[Any, Any]]:
    """Yields (old, new) of each weight that means the same in both models."""
    old_layers, new_layers = layers_by_path(source), layers_by_path(target)
    for path in old_layers.keys() & new_layers.keys():
        old, new = old_layers[path], new_layers[path]
        if path not in replaced:
            yield from zip(old.weights, new.weights, strict=True)
        elif old.bias is not None:
            yield old.bias, new.bias


def _built(model: Any) -> Any:
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return optimizer


def _carry(source: Any, target: Any, pairs: list[tuple[Any, Any]]) -> None:
    inner = getattr(source, "inner_optimizer", None)  # of a LossScaleOptimizer
    if inner is not None:
        _carry(inner, target.inner_optimizer, pairs)
    old_slots, new_slots = _slots(source), _slots(target)
    for name, old in old_slots.items():
        for old_variable, new_variable in pairs:
            if id(old_variable) in old:
                new_slots[name][id(new_variable)].assign(old[id(old_variable)])
    rest = zip(_without_slots(source, old_slots), _without_slots(target, new_slots), strict=True)
    for old_variable, new_variable in rest:
        new_variable.assign(old_variable)


def _slots(optimizer: Any) -> dict[str, dict[int, Any]]:
    """Returns attribute -> id(variable) -> slot.

    Keras optimizers keep their slots in lists parallel to the trainable variables;
    the names of the lists differ from one optimizer to the next.
    """
    own = {id(variable) for variable in optimizer.variables}
    trainable = optimizer._trainable_variables
    return {
        name: {id(v): slot for v, slot in zip(trainable, value, strict=True) if slot is not None}
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and len(value) == len(trainable)
        and any(id(slot) in own for slot in value)
        and name != "_variables"
    }


def _without_slots(optimizer: Any, slots: dict[str, dict[int, Any]]) -> list[Any]:
    inner = getattr(optimizer, "inner_optimizer", None)
    others = {id(slot) for group in slots.values() for slot in group.values()}
    others |= {id(variable) for variable in (inner.variables if inner is not None else ())}
    return [variable for variable in optimizer.variables if id(variable) not in others]
