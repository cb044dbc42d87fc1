"""Gradients of a model's outputs by its kernels, for SavedModels and Keras models."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError

WRONG_CLASSES = 2
"""How many wrong classes, the most likely ones, an example is pulled towards."""


def squared_gradients(
    run: Callable[[Any], Any], variables: Mapping[str, Any], examples: Iterable[Any]
) -> dict[str, np.ndarray]:
    """Returns sum d^2 over examples and wrong classes l, in each kernel's layout.

    d is the gradient of ||p - e_l||^2 / 2, p the prediction and e_l one-hot: how fast an
    entry of the kernel turns the prediction to a wrong class. The model's own first
    choice counts as the right one.

    Args:
      run: returns the outputs for one example.
      variables: site name -> kernel variable.
      examples: batches of one.

    Raises:
      UserError: no output is a row of class scores.

    References:
      Denton et al. 2014, Section 3.1, Mahalanobis distance metric.
    """
    totals = {name: np.zeros(variable.shape) for name, variable in variables.items()}
    for example in examples:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(list(variables.values()))
            scores = _scores(tf.nest.flatten(run(example)))
            wrong = tf.argsort(scores, direction="DESCENDING")[1 : 1 + WRONG_CLASSES]
            losses = [
                tf.reduce_sum(
                    tf.square(scores - tf.one_hot(label, len(scores), dtype=scores.dtype))
                )
                / 2
                for label in tf.unstack(wrong)
            ]
        for loss in losses:
            gradients = tape.gradient(loss, dict(variables), unconnected_gradients="zero")
            for name, gradient in gradients.items():
                totals[name] += np.square(np.asarray(gradient, np.float64))
        del tape
    return totals


def _scores(outputs: list[Any]) -> Any:
    for output in outputs:
        if output.dtype.is_floating and output.shape.rank == 2 and output.shape[1] > 1:
            return output[0]
    raise UserError(
        "metric mahalanobis needs an output of class scores, [batch, classes]: choose metric "
        "covariance or output"
    )


def saved_model_gradients(
    source: Any, sites: Iterable[Site], tags: Iterable[str], examples: Iterable[Any]
) -> dict[str, np.ndarray]:
    """Returns the squared gradients of an opened SavedModel's sites; see `squared_gradients`.

    Kernels that no variable holds have none.
    """
    from tfapprox.rewriters.saved_model.writing import write_saved_model

    sites = list(sites)
    dense = {s.name: Factorization((Stage(np.ascontiguousarray(s.kernel)),)) for s in sites}
    with tempfile.TemporaryDirectory(prefix="tfapprox-gradients-") as folder:
        path = str(Path(folder, "model"))
        write_saved_model(source, dense, path)  # each kernel is a variable of its own there
        loaded = tf.saved_model.load(path, tags=list(tags))
        function = loaded.signatures[source.signature]
        variables = _matched(sites, function.variables)

        def run(example: Mapping[str, np.ndarray]) -> Any:
            return function(**{key: tf.constant(value) for key, value in example.items()})

        return squared_gradients(run, variables, examples)


def keras_gradients(
    model: Any, sites: Iterable[Site], examples: Iterable[Any]
) -> dict[str, np.ndarray]:
    """Returns the squared gradients of a Keras model's sites; see `squared_gradients`."""
    from tfapprox.rewriters.keras_graph import layers_by_path
    from tfapprox.rewriters.keras_model import rewrite_keras_model

    sites = list(sites)
    dense = {s.name: Factorization((Stage(np.ascontiguousarray(s.kernel)),)) for s in sites}
    copy = rewrite_keras_model(model, dense)
    layers = layers_by_path(copy)
    kernels = {site.name: layers[site.name].kernel for site in sites}
    variables = {n: k if isinstance(k, tf.Variable) else k.value for n, k in kernels.items()}
    return squared_gradients(copy, variables, examples)


def _matched(sites: Iterable[Site], variables: Iterable[Any]) -> dict[str, Any]:
    """Returns site name -> the variable that holds its kernel, by their values."""
    values = [(variable, variable.numpy()) for variable in variables if variable.dtype.is_floating]
    found = {}
    for site in sites:
        for variable, value in values:
            if value.size == site.kernel.size and np.array_equal(
                value.reshape(-1), site.kernel.reshape(-1)
            ):
                found[site.name] = variable
    return found
