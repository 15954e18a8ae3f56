"""The gate that our own builds pass: how often it fails when it should, and when it should not.

The candidate is compared with the committed baseline (24 speakers, 960 clips, three repeats) by ``--fail uar:0.02``.
Measured, 100 tries each with the seeds below:

=============================================================================  =====
candidate                                                                      fails
=============================================================================  =====
the baseline, 5 points of the MLP's UAR taken away by making right answers
wrong                                                                            100
both models drawn anew with equal ability, 5 points of one taken away             96
both models drawn anew with equal ability                                          3
=============================================================================  =====

Models drawn anew find the same speakers and clips hard; beyond that they answer at random, with a liking of their own
for each speaker, so that of 19 % of the clips one is right and the other wrong. Of two seeds of the real MLP that is
13 %: of 100 pairs of three such seeds each none failed, and with 5 points less all did.

Why the rule is as it is: an interval of 95 % of which only the side of a drop counts lets 2.5 % of equal pairs fail,
whatever the number of entries (Holm), and the tolerance fewer. At 90 % it would let 5 % fail, which is 7 of 100 often
enough, for little: 5 points are three to four standard errors here. Three repeats narrow the interval of the real MLP
from ±0.029 to ±0.017, below the tolerance: of equal pairs 75 % are *no worse* and the rest inconclusive; with one it is
11 %.
"""

from pathlib import Path

import numpy as np
import pytest

from emobench.comparison.verdicts import compare
from emobench.config.yaml import load_config
from emobench.results.run import Results, load_results

ROOT = Path(__file__).parents[1]
DROP = 0.05
FAIL = {"uar": 0.02}


@pytest.fixture(scope="module")
def baseline():
    return load_results(ROOT / "results" / "baseline")


def with_predictions(baseline, predictions):
    """Return a run like the baseline that has predicted something else."""
    made = Results(baseline.path, baseline.leaderboard, baseline.run)
    made.__dict__["predictions"] = predictions
    return made


def take_away(predictions, rng, *, entry="mlp"):
    """Return predictions with right answers of an entry made wrong, in every repeat, until `DROP` of UAR is gone.

    Every class has as many clips as the others, so that a clip is worth the same whatever its class.
    """
    predictions = predictions.copy()
    classes = np.unique(predictions["y_true"])
    y_true, y_pred = predictions["y_true"].to_numpy(), predictions["y_pred"].to_numpy().copy()
    for repeat in predictions["repeat"].unique():
        rows = np.flatnonzero((predictions["entry"] == entry) & (predictions["repeat"] == repeat))
        right = rows[y_true[rows] == y_pred[rows]]
        for row in rng.choice(right, round(DROP * len(rows)), replace=False):
            y_pred[row] = rng.choice(classes[classes != y_true[row]])
    return predictions.assign(y_pred=y_pred)


def draw_equal(predictions, rng):
    """Return two sets of predictions by models of equal ability, which find the same speakers and clips hard."""
    clips, clip = np.unique(predictions["utterance"], return_inverse=True)
    speakers, speaker = np.unique(predictions["speaker"], return_inverse=True)
    models, model = np.unique(predictions["entry"], return_inverse=True)
    classes = np.unique(predictions["y_true"])
    hardness = rng.normal(-0.4, 4, len(clips))[clip] + rng.normal(0, 0.4, len(speakers))[speaker]
    drawn = []
    for _ in range(2):
        liking = rng.normal(0, 0.3, (len(models), len(speakers)))[model, speaker]
        is_right = rng.random(len(predictions)) < 1 / (1 + np.exp(-hardness - liking))
        true = np.searchsorted(classes, predictions["y_true"])
        wrong = (true + rng.integers(1, len(classes), len(predictions))) % len(classes)
        drawn.append(predictions.assign(y_pred=classes[np.where(is_right, true, wrong)]))
    return drawn


def count_failures(baseline, make, n_tries):
    """Return how many of the pairs that `make` draws would fail a build, over seeds 0, 1, …"""
    failures = 0
    for seed in range(n_tries):
        before, after = make(np.random.default_rng(seed))
        found = compare(with_predictions(baseline, before), with_predictions(baseline, after), fail=FAIL)
        failures += found.exit_code == 10
    return failures


@pytest.fixture(scope="module")
def predictions(baseline):
    return baseline.predictions[baseline.predictions["entry"] != "dummy"].reset_index(drop=True)


@pytest.fixture(scope="module")
def models(baseline):
    """The baseline without the floor, which has no ability to draw."""
    return Results(baseline.path, baseline.leaderboard[baseline.leaderboard["entry"] != "dummy"], baseline.run)


def fewer_right(predictions):
    return lambda rng: (predictions, take_away(predictions, rng))


def equal(predictions):
    return lambda rng: draw_equal(predictions, rng)


def equal_but_fewer_right(predictions):
    def make(rng):
        before, after = draw_equal(predictions, rng)
        return before, take_away(after, rng)

    return make


def test_the_gate_passes_the_baseline_itself(baseline):
    found = compare(baseline, baseline, fail=FAIL)
    assert found.exit_code == 0
    assert {verdict.status for verdict in found.verdicts} == {"identical"}


def test_the_baseline_is_of_the_config_that_the_gate_runs(baseline):
    """A config that was changed alone would compare what nobody runs."""
    config = load_config(ROOT / "configs" / "ci.yaml")
    recorded = baseline.run["config"]
    assert [model.entry for model in config.models] == list(baseline.run["entries"])
    assert (config.repeats, config.seed) == (recorded["repeats"], recorded["seed"])
    assert baseline.path.name.startswith("ci-")


def test_the_baseline_is_small(baseline):
    assert sum(path.stat().st_size for path in baseline.path.iterdir()) < 300_000


def test_drawn_models_are_like_the_baseline_and_lose_what_is_taken_away(predictions):
    before, after = draw_equal(predictions, np.random.default_rng(0))
    for drawn in (before, after):
        assert (drawn["y_true"] == drawn["y_pred"]).mean() == pytest.approx(0.46, abs=0.05)
    poorer = take_away(before, np.random.default_rng(0))
    gone = (before["y_true"] == before["y_pred"]) & (poorer["y_true"] != poorer["y_pred"])
    assert gone.sum() / (before["entry"] == "mlp").sum() == pytest.approx(DROP)
    assert set(before["entry"][gone]) == {"mlp"}


@pytest.mark.parametrize("make, low, high", [(fewer_right, 5, 5), (equal_but_fewer_right, 4, 5), (equal, 0, 1)])
def test_the_gate_tells_a_drop_from_chance(models, predictions, make, low, high):
    assert low <= count_failures(models, make(predictions), 5) <= high


@pytest.mark.slow
@pytest.mark.parametrize("make, low, high", [(fewer_right, 90, 100), (equal_but_fewer_right, 90, 100), (equal, 0, 7)])
def test_the_gate_tells_a_drop_from_chance_in_a_hundred_tries(models, predictions, make, low, high):
    assert low <= count_failures(models, make(predictions), 100) <= high
