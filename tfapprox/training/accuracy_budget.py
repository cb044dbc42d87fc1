"""The largest compression within a drop of accuracy, found in few trials."""

import dataclasses
import logging
import pathlib
from typing import Any

from tfapprox.errors import UserError
from tfapprox.training.best_epoch import RetrainData
from tfapprox.training.compress_retrain import RetrainConfig, compress_retrain
from tfapprox.training.trade_off import TradeOff

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AccuracyBudget:
    """What a search for the largest compression gave.

    Attributes:
      dense: the original's row.
      chosen: the row of the smallest model within the drop; None if none was.
      trials: every row that was looked at, in the order of the search.
    """

    dense: TradeOff
    chosen: TradeOff | None
    trials: tuple[TradeOff, ...]


def compress_within_drop(
    model: Any,
    data: RetrainData,
    config: RetrainConfig,
    drop: float,
    folder: str | pathlib.Path,
) -> AccuracyBudget:
    """Returns the smallest of the config's ratios that loses at most `drop` in validation.

    Ratios are tried by bisection, which takes for granted that the smaller ratio has
    the smaller accuracy; so of n ratios about log2(n) are compressed, and retrained
    unless the mode is compress_only. With the selector greedy, which suits it best, the
    evaluations of sites are made once and kept in `folder`/scores.json for all ratios.
    What is done is not done again: a search that was killed goes on, and a smaller drop
    asked for later takes its trials from the same folder.

    `load_model(folder, found.chosen, config.mode)` returns the model.

    Args:
      model, data, folder: as for `compress_retrain`.
      config: its `keeps` are the ratios, e.g. `cascade(0.05, 0.9)`; not iterative, as
        each ratio starts from the dense model.
      drop: of accuracy, so 0.005 is half a point.

    Raises:
      UserError: as `compress_retrain`; a negative drop; an iterative config.
    """
    if drop < 0:
        raise UserError(f"drop must not be negative, got {drop}")
    if config.mode == "iterative":
        raise UserError("each ratio is tried by itself: mode must be compress_only or one_shot")
    trials: list[TradeOff] = []
    dense: TradeOff | None = None
    # The ratio at `passed` is known to hold (-1: the dense model), that at `failed` not to.
    passed, failed, chosen = -1, len(config.keeps), None
    while failed - passed > 1:
        place = (passed + failed) // 2
        one = dataclasses.replace(config, keeps=(config.keeps[place],))
        dense, *rows = compress_retrain(model, data, one, folder)
        trials += rows
        holds = bool(rows) and rows[0].valid >= dense.valid - drop
        _LOG.info("keep %.4f %s", config.keeps[place], "holds" if holds else "loses too much")
        if holds:
            passed, chosen = place, rows[0]
        else:
            failed = place
    assert dense is not None  # a config has at least one ratio
    return AccuracyBudget(dense, chosen, tuple(trials))
