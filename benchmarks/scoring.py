"""A score without labels, for greedy ranks: how far one replaced kernel moves the outputs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.fitting import factorize
from tfapprox.selection.problem import Configuration
from tfapprox.serving.inputs import generate_inputs
from tfapprox.serving.signature import default_signature, read_signatures


class OutputScore:
    """Minus the error of a SavedModel's outputs with one site replaced, by their own spread.

    What a replaced site computes is the convolution with its composed kernel, but for
    rounding. So the kernel is put into the loaded model, and nothing is written.
    """

    def __init__(self, model: Path, sites: Iterable[Site], spectra: SpectrumCache, batch: int = 2):
        """Loads the model and runs it.

        Args:
          model: a SavedModel that holds each site's kernel as a variable.
          sites: of the model.
          spectra: of the sites' kernels.
          batch: of the inputs, which are made up.

        Raises:
          UserError: the outputs don't depend on the inputs, so nothing can be told by them.
        """
        import tensorflow as tf

        signatures = read_signatures(str(model))
        name = default_signature(signatures)
        self._model = tf.saved_model.load(str(model))  # variables live as long as this does
        self._call = self._model.signatures[name]
        inputs = generate_inputs(signatures[name], batch)
        self._inputs = {key: tf.constant(value) for key, value in inputs.items()}
        self._spectra = spectra
        self._variables = {site.name: self._variable(site) for site in sites}
        self._outputs = self._run()
        self._spread = np.linalg.norm(self._outputs - self._outputs.mean())
        if self._spread < 1e-5 * np.linalg.norm(self._outputs):
            raise UserError(
                "greedy has no score: with random weights the outputs are the same for any input"
            )

    def __call__(self, site: Site | None, choice: Configuration | None) -> float:
        if site is None or choice is None:
            return 0.0
        variable = self._variables[site.name]
        kernel = factorize(site, choice, self._spectra).reconstruct()
        variable.assign(kernel.reshape(variable.shape))
        try:
            outputs = self._run()
        finally:
            variable.assign(site.kernel.reshape(variable.shape))
        return -float(np.linalg.norm(outputs - self._outputs) / self._spread)

    def _run(self) -> np.ndarray:
        outputs = self._call(**self._inputs)
        return np.concatenate([outputs[key].numpy().ravel() for key in sorted(outputs)])

    def _variable(self, site: Site) -> Any:
        for variable in self._call.variables:
            if variable.shape.num_elements() == site.kernel.size:
                if np.array_equal(variable.numpy().ravel(), site.kernel.ravel()):
                    return variable
        raise ValueError(f"no variable holds the kernel of {site.name}")
