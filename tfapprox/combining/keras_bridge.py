"""Keras 3 graph models made anew in tf_keras, where TFMOT works."""

import inspect
from typing import Any

from tfapprox.errors import UserError, VerificationError
from tfapprox.rewriters.agreement import Verification
from tfapprox.rewriters.keras_graph import (
    check_graph_model,
    flavour_of,
    input_structure,
    is_graph_model,
    nodes_of,
    run_graph,
    tree_of,
    weights_of,
)
from tfapprox.rewriters.verify_keras import verify_keras_model

LIMIT = 1e-4
"""Largest relative difference of the outputs: float32 rounding through a deep network."""

# What the two call differently.
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Initializers' work is done; the others are said to be left behind.
_DROPPED = ("initializer", "regularizer", "constraint")


def to_tf_keras(model: Any, inputs: Any = None) -> tuple[Any, Verification | None]:
    """Returns the model in tf_keras, and how well it agrees with the original.

    Layers are made anew from their configuration by the class of the same name, and get
    the weights. Regularizers and constraints are left behind.

    Args:
      model: Sequential or Functional, flat; one of tf_keras is returned as it is.
      inputs: what `model(inputs)` takes, to compare both on; made up when None.

    Returns:
      The model, and None for the agreement when nothing had to be done.

    Raises:
      UserError: a subclassed or nested model, or a layer that tf_keras has not.
      VerificationError: the two give different outputs.
    """
    check_graph_model(model)
    for layer, *_ in nodes_of(model):
        if is_graph_model(layer):
            raise UserError(
                f"model {model.name!r} holds the model {layer.name!r}, which TFMOT can't take: "
                "put its layers into one Functional model"
            )
    if flavour_of(model).__name__ == "tf_keras":
        return model, None
    bridged = _rebuild(model)
    parity = verify_keras_model(bridged, model, inputs)
    if not parity.passed or parity.relative_error > LIMIT:
        raise VerificationError(
            f"{model.name!r} gives other outputs in tf_keras (relative error "
            f"{parity.relative_error:.2g} > {LIMIT:g}): leave TFMOT out and compress the SavedModel"
        )
    return bridged, parity


def _rebuild(model: Any) -> Any:
    import tf_keras

    made: dict[int, tuple[Any, Any]] = {}

    def call(layer: Any, args: tuple, kwargs: dict) -> Any:
        if id(layer) not in made:
            made[id(layer)] = layer, _tf_keras_layer(layer)
        return made[id(layer)][1](*args, **_used(kwargs))

    inputs = [
        tf_keras.Input(tuple(x.shape[1:]), name=x._keras_history[0].name, dtype=str(x.dtype))
        for x in model.inputs
    ]
    structure = tree_of(flavour_of(model)).pack_sequence_as(input_structure(model), inputs)
    outputs = run_graph(model, structure, call)
    # A tf_keras Sequential would do as well, but TFMOT treats this one alike and it fits all.
    bridged = tf_keras.Model(_single(structure), _single(outputs), name=model.name)
    for old, new in made.values():
        _copy_weights(old, new)
        new.trainable = old.trainable
    return bridged


def _single(structure: Any) -> Any:
    """Returns x for [x], as Sequential nests its inputs."""
    flat = isinstance(structure, list | tuple) and len(structure) == 1
    return structure[0] if flat else structure


def _used(kwargs: dict) -> dict:
    # Keras 3 writes every default into a call; tf_keras may not know the argument.
    return {key: value for key, value in kwargs.items() if value is not None}


def _tf_keras_layer(layer: Any) -> Any:
    """Returns the unbuilt layer of the same name.

    Raises:
      UserError: there is none, or it lacks a setting that matters.
    """
    import tf_keras

    kind = type(layer).__name__
    maker = getattr(tf_keras.layers, kind, None)
    is_layer = isinstance(layer, flavour_of(layer).layers.Layer)  # an operation is none
    if maker is None or not is_layer or not type(layer).__module__.startswith("keras."):
        raise UserError(
            f"layer {layer.name!r} ({kind}) has no counterpart in tf_keras: use stock layers "
            "(Add for +), or leave TFMOT out and compress the SavedModel"
        )
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise UserError(f"layer {layer.name!r} has LoRA or quantized weights: bridge it before")
    config = layer.get_config()
    renamed = {_RENAMED.get(kind, {}).get(key, key): value for key, value in config.items()}
    known, ours = _parameters(maker), _parameters(type(layer))
    lost = {k for k, v in renamed.items() if k not in known and v and v != ours.get(k)}
    if lost:
        raise UserError(
            f"layer {layer.name!r} ({kind}): tf_keras lacks its settings {sorted(lost)}"
        )
    kept = {k: v for k, v in renamed.items() if k in known and not k.endswith(_DROPPED)}
    try:
        return maker.from_config({**kept, "dtype": layer.dtype_policy.name})
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"layer {layer.name!r} ({kind}) can't be made in tf_keras: {reason}"
        ) from error


def _parameters(maker: type) -> dict[str, Any]:
    """Returns what the constructors of a layer and its bases take, with the defaults."""
    found: dict[str, Any] = {"name": None, "trainable": True, "dtype": None}
    for base in maker.__mro__:
        if base.__name__ == "Layer":
            break
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {p.name: p.default for p in parameters if p.name not in found}
    return found


def _copy_weights(old: Any, new: Any) -> None:
    """Fills a tf_keras layer with its Keras 3 original's weights.

    Raises:
      UserError: it has others.
    """
    sources, targets = weights_of(old), weights_of(new)
    shapes = [[tuple(w.shape) for w in weights] for weights in (sources, targets)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"layer {old.name!r} ({type(old).__name__}) has weights of shapes {shapes[0]}, in "
            f"tf_keras {shapes[1]}: leave TFMOT out and compress the SavedModel"
        )
    for source, target in zip(sources, targets, strict=True):
        target.assign(source.numpy())
