"""What a Keras model's layers are given, as rows: one output position each."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tfapprox.accounting.site import Site
from tfapprox.calibration.patches import patch_rows, position_count
from tfapprox.errors import UserError
from tfapprox.rewriters.keras_graph import (
    first_argument,
    flavour_of,
    is_graph_model,
    layers_by_path,
    run_graph,
    tree_of,
)

_EXAMPLES = 256
_BATCH = 32
_ROWS = 128  # of each layer and batch


def input_rows(
    model: Any, sites: Collection[Site], inputs: Any, seed: int = 0
) -> Mapping[str, np.ndarray]:
    """Returns, by site, rows of its input as `calibration.patches.patch_rows` lays them out.

    At most 256 examples are run, in inference mode, and of every batch of 32 at most
    128 positions of each site are taken, at random, all calls of a shared layer alike.

    Args:
      sites: of layers of the kinds dense, conv1d and conv2d, channels last.
      inputs: what `model(inputs)` takes.

    Raises:
      UserError: there is no example.
    """
    tree = tree_of(flavour_of(model))
    count = min(_EXAMPLES, min((len(x) for x in tree.flatten(inputs)), default=0))
    if not count:
        raise UserError("there is no example among the inputs: give at least one")
    layers = layers_by_path(model)
    wanted = {id(layers[site.name]): site for site in sites}
    generator = np.random.default_rng(seed)
    rows: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}

    def call(layer: Any, args: tuple, kwargs: dict) -> Any:
        if is_graph_model(layer):
            return run_graph(layer, first_argument(args, kwargs), call)
        site = wanted.get(id(layer))
        if site is not None:
            x = np.asarray(first_argument(args, kwargs))
            rows[site.name].append(_some_rows(site, x, generator))
        return layer(*args, **kwargs)

    for start in range(0, count, _BATCH):
        stop = min(count, start + _BATCH)
        batch = tree.map_structure(lambda x, a=start, b=stop: np.asarray(x)[a:b], inputs)
        run_graph(model, batch, call)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _some_rows(site: Site, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if site.kind == "dense":
        flat = x.reshape(-1, x.shape[-1])
        return flat[_choose(len(flat), generator)]
    x = x if x.ndim == 4 else x[:, None]
    positions = position_count(x.shape, site.kernel_size, site.geometries[0])
    chosen = _choose(positions, generator)
    return patch_rows(x, site.kernel_size, site.geometries[0], chosen)


def _choose(count: int, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.permutation(count)[:_ROWS])
