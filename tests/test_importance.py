"""What blocks of features are worth, and which recordings are hardest."""

import numpy as np
import pandas as pd
import pytest
from conftest import write_corpus

from emobench.config.yaml import parse_config
from emobench.errors import ConfigError
from emobench.features import FEATURES, FeatureSpec
from emobench.reports import derivation, page
from emobench.reports.importance import describe
from emobench.results.tables import PERMUTED, read_csv
from emobench.running.runner import run
from emobench.statistics.intervals import fall

PLUGIN = '''
import numpy as np
from emobench.features import FeatureSpec

def describe(signal, sr):
    """Return the period, and two numbers that say nothing."""
    power = np.abs(np.fft.rfft(signal, 1 << 15)) ** 2
    lags = np.fft.irfft(power)[sr // 400 : sr // 90]
    noise = np.random.default_rng(int(1e4 * abs(signal).sum())).normal(size=2)
    return np.array([[np.argmax(lags) / 10], *noise[:, None]], np.float32)

def summarise(frames):
    return frames[:, 0]

KNOWN = FeatureSpec("known", "One number that tells and two that do not", describe, summarise, 3,
                    names=("peak.lag", "noise.one", "noise.two"))
UNNAMED = FeatureSpec("unnamed", "The same without names", describe, summarise, 3)
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with importance, of 6 speakers, two repeats, a leaky protocol and features without names."""
    folder = tmp_path_factory.mktemp("importance")
    (corpus := folder / "corpus").mkdir()
    write_corpus(corpus, n_speakers=6)
    (folder / "rows.py").write_text(PLUGIN)
    config = {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "features": ["known", "unnamed"],
        "models": ["logistic", {"name": "knn", "params": {"n_neighbors": 3}}, "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}, {"name": "random-kfold", "n_splits": 2}],
        "importance": {"n_permutations": 5},
        "repeats": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        return config, run(config, output=folder / "results", n_jobs=1, plugins=[folder / "rows.py"]), folder


def test_block_that_tells_is_worth_more_than_noise(finished):
    table = read_csv(finished[1].folder / "importance.csv")
    part = table[table["entry"] == "knn"].set_index("block")
    drop = pd.to_numeric(part["drop"])
    assert list(part.index) == ["peak", "noise"]
    assert drop["peak"] > 0.3 > abs(drop["noise"])
    assert float(part.loc["peak", "drop_low"]) <= drop["peak"] <= float(part.loc["peak", "drop_high"])
    assert part.loc["noise", "n_features"] == "2"


def test_importance_is_of_held_out_speakers_and_of_numbers_with_names(finished):
    table = read_csv(finished[1].folder / "importance.csv")
    assert set(table["protocol"]) == {"group-kfold"}
    assert set(table["features"]) == {"known"}
    assert "unnamed: no importance, because its numbers have no names" in finished[1].remarks
    constant = pd.to_numeric(table.loc[table["entry"] == "dummy", ["drop", "drop_low", "drop_high"]].stack())
    assert (constant == 0).all()


def test_shuffling_is_what_scikit_learn_does(finished):
    """One column a block, so that scikit-learn can shuffle it; means agree within what chance makes of them."""
    from sklearn.inspection import permutation_importance

    from emobench.models import build, get_model
    from emobench.running.evaluation import Job, evaluate
    from emobench.testing.models import CODES, LABELS, SPEAKERS
    from emobench.testing.models import X as BLOBS

    X, n = BLOBS[:, :4], 40
    names = tuple(f"x{number}.value" for number in range(4))
    spec = FeatureSpec("blobs", "", "builtins:abs", "builtins:abs", 4, names=names)
    table = make_table(X, CODES, SPEAKERS, LABELS, spec)
    train, test = np.flatnonzero(SPEAKERS < 4), np.flatnonzero(SPEAKERS >= 4)
    job = Job("k", "c", "f", "e", "logistic", {}, "p", (), 0, 0, 0, train, test, n_permutations=n)
    found = evaluate(table, job).importance["n_right"]
    model = build(get_model("logistic")).fit(X[train], CODES[train])
    oracle = permutation_importance(model, X[test], CODES[test], n_repeats=n, random_state=0).importances_mean
    shuffled = np.array([np.sum(found[f"x{number}"]) / n / len(test) for number in range(4)])
    np.testing.assert_allclose(model.score(X[test], CODES[test]) - shuffled, oracle, atol=0.05)
    assert oracle.max() > 0.1


def make_table(X, y, speakers, classes, spec):
    from emobench.features import FeatureTable

    texts = tuple(map(str, speakers))
    return FeatureTable(X, y, tuple(classes), tuple(map(str, range(len(y)))), texts, ("",) * len(y), spec, "key")


def test_importance_is_computed_once_and_serves_later_runs(finished):
    config, found, folder = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        jobs = sorted((found.folder / "jobs").iterdir())
        before = [path.stat().st_mtime_ns for path in jobs]
        run(config, output=folder / "results", n_jobs=1, plugins=[folder / "rows.py"])
        assert [path.stat().st_mtime_ns for path in jobs] == before
        more = {**config, "importance": {"n_permutations": 2}}
        other = run(more, output=folder / "results", n_jobs=1, plugins=[folder / "rows.py"])
    assert other.folder != found.folder
    pd.testing.assert_series_equal(other.leaderboard["uar"], found.leaderboard["uar"])


def test_importance_is_derived_again_to_the_same_bytes(finished):
    folder = finished[1].folder
    before = {name: (folder / name).read_bytes() for name in ("importance.csv", "report.html")}
    (folder / "importance.csv").unlink()
    derivation.rebuild(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_page_draws_importance_and_lists_the_hardest_recordings(finished):
    text = (finished[1].folder / "report.html").read_text()
    assert "listens to" in text
    assert "peak (1)" in text
    assert "Recordings most often wrong" in text


def test_hardest_recordings_are_those_most_often_wrong():
    rows = [("a", "calm", "sad"), ("a", "calm", "happy"), ("a", "calm", "sad")]
    rows += [("b", "sad", "sad"), ("b", "sad", "calm"), ("c", "sad", "sad")]
    frame = pd.DataFrame(rows, columns=["utterance", "y_true", "y_pred"])
    frame = frame.assign(corpus="x", protocol="loso", speaker="s1")
    leaky = frame.assign(protocol="random-kfold", y_pred="happy")
    waived = {"loso": [], "random-kfold": ["speaker"]}
    proofs = [{"corpus": "x", "protocol": protocol, "waives": waives} for protocol, waives in waived.items()]
    found = page.hardest_recordings(pd.concat([frame, leaky]), {"leakage_certificates": proofs})
    assert found.rows == [["a", "s1", "calm", "sad 2, happy 1", "3 of 3"], ["b", "s1", "sad", "calm 1", "1 of 2"]]
    assert page.hardest_recordings(leaky, {"leakage_certificates": proofs}) is None


def test_importance_of_a_config_is_checked():
    with pytest.raises(ConfigError, match=r"importance\.n_permutations .* greater than or equal to 1"):
        parse_config("corpora: [ravdess]\nmodels: [svm]\nimportance: {n_permutations: 0}")
    assert "importance" not in parse_config("corpora: [ravdess]\nmodels: [svm]").model_dump(mode="json")


def test_every_number_of_voice_belongs_to_a_block():
    columns = FEATURES["voice"].columns()
    assert sorted(place for places in columns.values() for place in places) == list(range(672))
    assert len(columns["modulation"]) == 128
    assert list(FEATURES["mfcc40"].columns())[:2] == ["mfcc00", "mfcc01"]


# --- the interval ---------------------------------------------------------------------------------------------------


def test_fall_of_the_same_answers_is_zero():
    right = np.ones((1, 8, 3))
    drop, found = fall(right, right, 2 * right)
    assert (drop, found.low, found.high) == (0, 0, 0)


def test_fall_is_the_difference_of_the_recalls():
    n = np.full((2, 8, 2), 4.0)
    before, after = n.copy(), n.copy()
    after[:, :, 0] = 1
    after[1] = 0
    drop, found = fall(before, after, n)
    assert drop == pytest.approx(((0.75 + 0) / 2 + 1) / 2)
    assert (found.low, found.high) == (drop, drop)


def test_interval_of_a_fall_is_scipys():
    from scipy.stats import bootstrap

    rng = np.random.default_rng(0)
    n = np.full((1, 12, 2), 10.0)
    before = rng.integers(5, 10, n.shape).astype(float)
    after = before - rng.integers(0, 5, n.shape)
    drop, found = fall(before, after, n, confidence=0.9)
    per_speaker = ((before - after) / n)[0].mean(axis=1)
    from emobench.statistics.intervals import widened

    oracle = bootstrap((per_speaker,), np.mean, confidence_level=widened(0.9, 11, 12), n_resamples=9999, rng=0)
    assert drop == pytest.approx(per_speaker.mean())
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.01)


@pytest.mark.parametrize("n_speakers, reason", [(4, "too few speakers"), (1, "too few speakers")])
def test_fall_of_few_speakers_has_no_interval(n_speakers, reason):
    n = np.full((1, n_speakers, 2), 4.0)
    drop, found = fall(n, n - 1, n)
    assert drop == 0.25
    assert reason in found.reason


def test_describe_sorts_blocks_by_their_fall():
    row = dict.fromkeys(PERMUTED, "") | {"n": 4, "n_right": 4, "repeat": 0, "n_features": 1, "corpus": "c"}
    rows = [
        {**row, "block": block, "speaker": f"s{speaker}", "y_true": label, "n_right_shuffled": 4 - lost}
        for block, lost in (("weak", 1), ("strong", 3))
        for speaker in range(6)
        for label in ("calm", "sad")
    ]
    table = describe(pd.DataFrame(rows), {"c": ["calm", "sad"]})
    assert list(table["block"]) == ["strong", "weak"]
    assert list(table["drop"]) == [0.75, 0.25]
