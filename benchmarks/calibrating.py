"""Time of calibrating a network, against a forward pass and the Gram products it needs."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Row, Spread
from tfapprox.accounting.site import Site
from tfapprox.calibration.collecting import ROWS_PER_CALL

_BATCH = 16


def calibration_row(name: str, image: int, rounds: int) -> Row:
    """Returns the seconds of one batch of calibration, and of what it can't do without.

    Three things are timed in turns, on random images: the signature on a batch; the
    product of a matrix with itself of the size that every site's rows have (at most
    `ROWS_PER_CALL` of them a call); and the pass that collects the moments, which runs
    the network with every site under observation. What is done once, whatever the data,
    is not in it: writing and loading that observed network, and the sensitivities, which
    run the network once for each site on a few examples.
    """
    import tensorflow as tf

    from benchmarks.networks import Sizes, export_network
    from tfapprox.calibration.collecting import MomentCollector
    from tfapprox.rewriters.saved_model import open_saved_model
    from tfapprox.rewriters.saved_model.probing import SavedModelProbe, watch_reason

    x = np.random.default_rng(0).standard_normal((_BATCH, image, image, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        export_network(name, Sizes(image=image), path)
        opened = open_saved_model(str(path), ("serve",), None, {})
        watched = {k.name for k in opened.kernels if not k.reason and not watch_reason(k)}
        sites = [site for site in opened.inspection.sites if site.name in watched]
        collector = MomentCollector(sites)
        run = tf.saved_model.load(str(path)).signatures[opened.signature]
        (key,) = run.structured_input_signature[1]
        batch = {key: x}
        with SavedModelProbe(opened, watched, collector.watch) as probe:
            return _timed(name, image, run, probe, collector, sites, batch, rounds)


def _timed(
    name: str, image: int, run: Any, probe: Any, collector: Any, sites: Sequence[Site],
    batch: dict[str, np.ndarray], rounds: int,
) -> Row:  # fmt: skip
    import tensorflow as tf

    grams = gram_sizes(sites, len(next(iter(batch.values()))))
    rows = {size: np.ones(size, np.float32) for size in set(grams)}

    def observe() -> None:
        collector.start_run()
        probe.run(batch)

    def multiply() -> None:
        for size in grams:
            rows[size].T @ rows[size]

    calls = (lambda: run(**{k: tf.constant(v) for k, v in batch.items()}), multiply, observe)
    seconds = np.array([[_seconds(call) for call in calls] for _ in range(rounds + 1)])[1:]
    forward, products, passes = np.median(seconds, axis=0)
    values = {
        "sites": len(sites),
        "forward pass, s": forward,
        "Gram products, s": products,
        "calibration pass, s": passes,
    }
    ratio = Spread.of(seconds[:, :2].sum(axis=1) / seconds[:, 2])
    case = {"network": f"calibration of {name}, batch {_BATCH} at {image} x {image}"}
    return Row(case, {"both over the calibration pass": ratio}, values)


def gram_sizes(sites: Sequence[Site], batch: int) -> list[tuple[int, int]]:
    """Returns (rows, inputs) of every product that a batch takes, one a use of a kernel."""
    sizes = []
    for site in sites:
        for place in site.geometries:
            height, width = place.output_size(site.kernel_size)
            rows = min(ROWS_PER_CALL, batch * height * width)
            sizes.append((rows, site.kernel[..., 0].size))
    return sizes


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
