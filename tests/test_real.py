"""Real recordings: the whole of RAVDESS from beside the checkout, against what one would compute by hand."""

import librosa
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emobench.running.runner import run
from emobench.running.verification import verify

pytestmark = pytest.mark.slow

EMOTIONS = ["calm", "happy", "sad", "angry", "fearful"]
TWINS = {f"ravdess/Actor_07/03-01-03-01-02-0{repetition}-07.flac" for repetition in (1, 2)}


@pytest.fixture(scope="module")
def ravdess(pytestconfig):
    folder = pytestconfig.rootpath.parent / "shared" / "data" / "ravdess"
    if not folder.is_dir():
        pytest.skip("the recordings are not here")
    return folder


@pytest.fixture(scope="module")
def outcome(ravdess, tmp_path_factory):
    """SVM and floor on the five emotions, grouped and at random, from cold."""
    folder = tmp_path_factory.mktemp("real")
    config = {
        "corpora": [{"name": "ravdess", "root": str(ravdess), "emotions": EMOTIONS}],
        "models": ["svm", "dummy"],
        "protocols": ["group-kfold", "emobox-6fold", "random-kfold"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        return run(config, output=folder / "results")


def test_ravdess_is_complete_and_decodes(ravdess):
    found = verify("ravdess", root=ravdess)
    assert (len(found.scan.utterances), found.missing, found.faults) == (1440, (), ())
    assert [set(group) for group in found.identical] == [TWINS]


def test_svm_is_equal_to_plain_scikit_learn_and_librosa_on_the_same_folds(ravdess, outcome):
    """Nothing of emobench computes the expected figure but the folds."""
    folds = pd.read_csv(outcome.folder / "folds.csv").query("protocol == 'group-kfold'")
    paths = [ravdess / utterance.removeprefix("ravdess/") for utterance in folds["utterance"]]
    X = np.array([librosa.feature.mfcc(y=librosa.load(p)[0], sr=22050, n_mfcc=40).mean(axis=1) for p in paths])
    y = np.array([path.stem.split("-")[2] for path in paths])
    y_pred = np.empty_like(y)
    for fold in folds["fold"].unique():
        test = (folds["fold"] == fold).to_numpy()
        y_pred[test] = make_pipeline(StandardScaler(), SVC(C=10)).fit(X[~test], y[~test]).predict(X[test])
    expected = recall_score(y, y_pred, average="macro")
    board = outcome.leaderboard.set_index(["protocol", "entry"])
    assert board.loc[("group-kfold", "svm"), "uar"] == pytest.approx(expected, abs=1e-6)


def test_honest_and_inflated_figures_are_where_the_field_has_them(outcome):
    board = outcome.leaderboard.set_index(["protocol", "entry"])["uar"]
    assert 0.44 < board["group-kfold", "svm"] < 0.50
    assert 0.44 < board["emobox-6fold", "svm"] < 0.50
    assert 0.72 < board["random-kfold", "svm"] < 0.82
    assert board["group-kfold", "dummy"] == pytest.approx(0.2)


def test_the_one_identical_pair_is_reported_and_never_split(outcome):
    assert any(all(twin in remark for twin in TWINS) for remark in outcome.remarks)
    folds = pd.read_csv(outcome.folder / "folds.csv")
    twins = folds[folds["utterance"].isin(TWINS)]
    assert (twins.groupby("protocol")["fold"].nunique() == 1).all()
