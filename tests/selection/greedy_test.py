"""The greedy selector spends few evaluations, remembers them, and follows the losses."""

import json

import numpy as np
import pytest

from tfapprox.accounting.cost import Cost
from tfapprox.accounting.site import Site
from tfapprox.errors import UserError
from tfapprox.selection.greedy import POINTS, ScoreCache, score_tables, select_greedy
from tfapprox.selection.problem import Budget, CandidateTable, Configuration, Problem


def silent(phase, done, total):
    pass


def site_of(name, seed=0):
    return Site(name, "dense", np.random.default_rng(seed).standard_normal((1, 1, 4, 4)))


def table_of(name, costs, dense=100):
    cost = np.array(costs, np.int64)
    return CandidateTable(
        name,
        [Configuration("svd", {"rank": int(c)}) for c in cost],
        1 - cost / dense,
        {"params": cost, "macs": cost, "bytes": cost},
        Cost(dense, dense, dense),
        1.0,
    )


def scored(losses):
    """A score of 0.9 less what `losses` says of (site, rank)."""

    def score(site, configuration):
        return 0.9 - (0.0 if site is None else losses(site.name, configuration.settings["rank"]))

    return score


def test_the_site_that_can_lose_it_is_cut_and_the_sensitive_one_stays():
    sites, tables = [site_of("tough"), site_of("tender")], []
    tables = [table_of(site.name, range(10, 100, 10)) for site in sites]
    score = scored(lambda site, rank: 0.0 if site == "tough" else 0.4 - rank / 250)
    kept, lossy = score_tables(sites, tables, "macs", score, silent)
    selection = select_greedy(Problem(tuple(lossy), Budget("macs", keep=0.6)))
    assert selection.rows["tender"] is None
    assert kept[0].configurations[selection.rows["tough"]].settings["rank"] <= 20
    assert kept[0].error[0] == pytest.approx(0.1)  # kernel errors stay beside the losses


def test_evaluations_are_few_and_progress_counts_them():
    sites, calls, steps = [site_of("site")], [], []
    tables = [table_of("site", range(1, 99))]

    def score(site, configuration):
        calls.append(configuration)
        return 0.5

    kept, _ = score_tables(sites, tables, "macs", score, lambda *step: steps.append(step))
    assert len(calls) == 1 + POINTS == 1 + len(kept[0])
    ranks = sorted(row.settings["rank"] for row in kept[0].configurations)
    assert (ranks[0], ranks[-1]) == (1, 98)
    assert steps[-1] == ("evaluating", 11, 11)


def test_chance_does_not_make_a_cheaper_row_look_better():
    sites, tables = [site_of("site")], [table_of("site", (20, 40, 60))]
    losses = {60: 0.2, 40: 0.0, 20: 0.3}
    _, (lossy,) = score_tables(sites, tables, "macs", scored(lambda _, r: losses[r]), silent)
    assert lossy.error == pytest.approx([0.1, 0.1, 0.3])


def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    calls = []

    def score(site, configuration):
        calls.append((site, configuration))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.5

    sites, tables = [site_of("site")], [table_of("site", (20, 40))]
    path = tmp_path / "scores.json"
    with pytest.raises(KeyboardInterrupt):
        score_tables(sites, tables, "macs", ScoreCache(score, sites, path), silent)
    score_tables(sites, tables, "macs", ScoreCache(score, sites, path), silent)
    score_tables(sites, tables, "macs", ScoreCache(score, sites, path), silent)
    assert len(calls) == 4  # the original, one that was interrupted, and two rows
    assert json.loads(path.read_text())["scores"]["original"] == 0.5


def test_scores_of_another_model_or_no_scores_at_all_are_refused(tmp_path):
    path = tmp_path / "scores.json"
    ScoreCache(lambda *_: 0.5, [site_of("a")], path)(None, None)
    with pytest.raises(UserError, match="another model"):
        ScoreCache(lambda *_: 0.5, [site_of("a", seed=1)], path)
    with pytest.raises(UserError, match="other calibration data"):
        ScoreCache(lambda *_: 0.5, [site_of("a")], path, "other data")
    path.write_text("[1]")
    with pytest.raises(UserError, match="delete it"):
        ScoreCache(lambda *_: 0.5, [site_of("a")], path)
    with pytest.raises(UserError, match="must be a number"):
        ScoreCache(lambda *_: float("nan"), [site_of("a")], tmp_path / "other.json")(None, None)
