"""Copies of single Keras layers: the same configuration and, bit for bit, the same state."""

import os
import tempfile
import types
import warnings
from typing import Any

from tfapprox.errors import UserError
from tfapprox.rewriters.keras_graph import flavour_of


def clone_layer(layer: Any) -> Any:
    """Returns an unbuilt layer of the same type and configuration.

    Custom classes need not be registered. The function of a Lambda is passed on as
    it is: nothing is pickled or evaluated.

    Raises:
      UserError: the layer can't be made anew from its config.
    """
    keras = flavour_of(layer)
    inner = layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else [layer]
    classes = {type(x).__name__: type(x) for x in inner}
    try:
        with keras.utils.custom_object_scope(classes):
            config = live_config(layer)
            if isinstance(layer, keras.layers.Lambda):
                return _clone_lambda(layer, config)
            return type(layer).from_config(config)
    except Exception as error:  # a custom layer may fail in any way
        raise UserError(
            f"layer {layer.name!r} ({type(layer).__name__}) can't be made anew from its config: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; give it a get_config, "
            "or export the model and compress the SavedModel"
        ) from error


def live_config(layer: Any) -> dict[str, Any]:
    """Returns the layer's config with its functions as they are, not serialized.

    So an activation of one's own needs no registry, and a lambda is never pickled.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "includes a lambda": what it warns of is replaced
        config = dict(layer.get_config())
    # "function" is the name of a TensorFlow operation, or `_clone_lambda`'s business.
    functions = {key: getattr(layer, key, None) for key in config if key != "function"}
    return config | {k: f for k, f in functions.items() if isinstance(f, types.FunctionType)}


def _clone_lambda(layer: Any, config: dict) -> Any:
    return type(layer)(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=config["name"],
        dtype=config["dtype"],
        trainable=config["trainable"],
    )


def copy_trainable(source: Any, target: Any) -> None:
    """Gives `target` and its inner layers the trainability of `source`."""
    # Outer layers come first: setting theirs sets all inner ones.
    for old, new in zip(source._flatten_layers(), target._flatten_layers(), strict=True):
        new.trainable = old.trainable


def copy_state(source: Any, target: Any) -> None:
    """Copies all variables, statistics and vocabularies of a built layer into its clone.

    Raises:
      UserError: the clone came out with other variables.
    """
    old_variables, new_variables = (
        [v for v in x.variables if hasattr(v, "assign")] for x in (source, target)
    )
    old_shapes, new_shapes = ([tuple(v.shape) for v in x] for x in (old_variables, new_variables))
    if old_shapes != new_shapes:
        raise UserError(
            f"layer {source.name!r} ({type(source).__name__}) made anew from its config has "
            f"variables of shapes {new_shapes}, not {old_shapes}; export the model and compress "
            "the SavedModel"
        )
    for old, new in zip(old_variables, new_variables, strict=True):
        new.assign(old)
    for old, new in zip(source._flatten_layers(), target._flatten_layers(), strict=True):
        _copy_assets(old, new)
        if hasattr(new, "finalize_state"):  # preprocessing layers keep what they derive
            new.finalize_state()


def _copy_assets(source: Any, target: Any) -> None:
    """Copies what a layer keeps outside variables, such as a vocabulary."""
    if not hasattr(source, "save_assets"):
        return
    with tempfile.TemporaryDirectory() as folder:
        source.save_assets(folder)
        if os.listdir(folder):
            target.load_assets(folder)
