"""Frames over time go the whole way: a plug-in's feature set and model, to leaderboard, bundle and prediction."""

import csv
import json

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import soundfile
from conftest import PITCH_HZ, SR, tone

import emobench
from emobench.bundles.storage import read_bundle
from emobench.prediction.probe import calls
from emobench.registry import using
from emobench.running.planning import plan
from emobench.running.runner import run

PLUGIN = """
import numpy as np
from emobench.features import FeatureSpec
from emobench.models import Float, ModelSpec

def bands(signal, *, sr):
    n_frames = max(1, len(signal) // 512)
    power = np.abs(np.fft.rfft(np.resize(signal, (n_frames, 512)))) ** 2
    return np.log(power[:, :96].reshape(n_frames, 12, 8).sum(axis=2) + 1e-6).astype(np.float32).T

def cut(bands):
    n_windows = -(-bands.shape[1] // 10)
    padded = np.pad(bands.T, ((0, 10 * n_windows - bands.shape[1]), (0, 0)), mode="edge")
    return padded.reshape(n_windows, 10, 12)

FRAMES = FeatureSpec("bands", "Ten frames of twelve bands", bands, cut, n_features=120, shape=(10, 12))
MODEL = ModelSpec(
    "flat-logistic",
    "Logistic regression on frames as they stand",
    "sklearn.linear_model:LogisticRegression",
    defaults={"C": 0.1},
    space={"C": Float(0.01, 1.0, log=True)},
    takes=("frames",),
)
"""
N_WINDOWS = {0.2: 1, 0.3: 2, 0.6: 3}  # by duration: 10 frames are 0.23 s


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """48 tones of eight speakers, of one to three windows."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    (folder / "plugin.py").write_text(PLUGIN)
    rows = []
    for speaker in range(8):
        for emotion, pitch_hz in PITCH_HZ.items():
            for duration_s in (0.2, 0.6) if speaker % 2 else (0.2, 0.3):
                path = f"s{speaker}-{emotion}-{duration_s}.wav"
                signal = tone(pitch_hz, 0.6 + 0.04 * speaker, rng, duration_s=duration_s)
                soundfile.write(folder / path, signal, SR)
                rows.append((path, f"s{speaker}", emotion, "female" if speaker // 2 % 2 else "male"))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "speaker", "emotion", "sex"), *rows])
    return folder


def config(corpus):
    return {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "features": ["mfcc40", "bands"],
        "models": ["flat-logistic", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 4}],
        "tuning": {"n_trials": 2, "inner_splits": 2},
        "metrics": ["uar", "log_loss"],
    }


@pytest.fixture(scope="module")
def outcome(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        found = run(config(corpus), output=folder, n_jobs=2, plugins=[corpus / "plugin.py"])
        again = run(config(corpus), output=folder, n_jobs=1, plugins=[corpus / "plugin.py"], force=True)
    assert found.leaderboard["uar"].tolist() == again.leaderboard["uar"].tolist()
    return found


def test_what_does_not_fit_is_no_job_and_is_said_once(outcome, corpus, tmp_path):
    expected = [
        "flat-logistic cannot see mfcc40, which is a vector: no jobs",
        "dummy cannot see bands, which is frames over time: no jobs",
    ]
    planned = plan(config(corpus), output=tmp_path, plugins=[corpus / "plugin.py"])
    for remarks in (planned.remarks, outcome.remarks):
        assert sorted(remark for remark in remarks if "cannot see" in remark) == sorted(expected)
    seen = {(job.model, job.features) for job in planned.jobs}
    assert seen == {("flat-logistic", "bands"), ("dummy", "mfcc40")}


def test_frames_reach_leaderboard_trials_and_report(outcome):
    board = outcome.leaderboard.set_index(["features", "entry"])
    assert set(board.index) == {("bands", "flat-logistic"), ("bands", "flat-logistic-tuned"), ("mfcc40", "dummy")}
    assert board.loc[("bands", "flat-logistic"), "uar"] > 0.8
    trials = pd.read_csv(outcome.folder / "trials.csv")
    assert set(trials["entry"]) == {"flat-logistic-tuned"}
    assert "flat-logistic-tuned" in (outcome.folder / "report.html").read_text()
    assert outcome.exit_code == 0


def test_each_recording_has_one_prediction(outcome):
    predictions = pd.read_parquet(outcome.folder / "predictions.parquet").query("entry == 'flat-logistic'")
    assert len(predictions) == predictions["utterance"].nunique() == 48
    columns = [name for name in predictions if name.startswith("p_")]
    labels = predictions[columns].idxmax(axis=1).str.removeprefix("p_")
    assert labels.tolist() == predictions["y_pred"].tolist()


def test_prediction_is_the_mean_over_the_windows_of_the_saved_model(outcome, corpus):
    path = outcome.folder / "models" / "flat-logistic@manifest+bands"
    bundle = read_bundle(path)
    assert bundle.manifest.features["shape"] == [10, 12]
    session = onnxruntime.InferenceSession(bundle.files["model.onnx"], providers=["CPUExecutionProvider"])
    model = emobench.load(path, plugins=[corpus / "plugin.py"])
    for duration_s, n_windows in N_WINDOWS.items():
        clip = next(corpus.glob(f"*-{duration_s}.wav"))
        windows = model.features(clip)
        assert windows.shape == (n_windows, 120)
        expected = session.run(["probabilities"], {"features": windows})[0].mean(axis=0)
        answer = model.predict(clip)
        np.testing.assert_allclose(list(answer.probabilities.values()), expected, atol=1e-6)
        assert answer.emotion == model.classes[expected.argmax()]


def test_long_recording_is_answered_window_by_window(outcome, corpus):
    model = emobench.load(outcome.folder / "models" / "flat-logistic@manifest+bands", plugins=[corpus / "plugin.py"])
    signal = np.concatenate([soundfile.read(path)[0] for path in sorted(corpus.glob("s1-*.wav"))])
    for answer in model.predict_windows(signal, SR, window_s=0.5, hop_s=0.25):
        start, end = round(answer.start_s * SR), round(answer.end_s * SR)
        assert answer.probabilities == model.predict(signal[start:end], SR).probabilities


def test_latency_is_measured_of_a_window_and_of_a_recording(outcome, corpus):
    with using([corpus / "plugin.py"]):
        model = emobench.load(outcome.folder / "models" / "flat-logistic@manifest+bands")
        clip = str(next(corpus.glob("*-0.6.wav")))
        answers = {(stage, batch): call() for stage, batch, call in calls(model, clip, [1, 4])}
    assert [len(answers["features_to_label", batch]) for batch in (1, 4)] == [1, 4]
    assert answers["wav_to_label", 1].emotion in model.classes


def test_own_predict_of_a_model_of_frames_is_timed(outcome):
    native = json.loads((outcome.folder / ".native.json").read_text())
    assert len(native) == 3
    assert all(value > 0 for value in native.values())
