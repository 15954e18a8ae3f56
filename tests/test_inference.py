import io
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import PITCH_HZ, SR, tone
from crafted_models import loop
from fitted import SPEC, bundle_of, changed
from sklearn.preprocessing import LabelEncoder

import emobench
from emobench.audio.decoding import read_audio
from emobench.bundles import inspection
from emobench.bundles.storage import MANIFEST, Bundle, read_bundle, write_bundle
from emobench.cli.main import main
from emobench.errors import AudioError, BundleError, ConfigError, DataError
from emobench.features.extraction import vectorise
from emobench.models import build, get_model
from emobench.prediction.predictor import GENERATED, SEEN, SILENT, UNCERTAIN, Prediction, Predictor, load, predict
from emobench.prediction.selection import find_bundle, find_entry

CLASSES = ("angry", "happy", "sad")
PARAMS = {"svm": {}, "dummy": {}, "mlp": {"hidden_layer_sizes": [8], "max_iter": 300}}


@pytest.fixture(scope="module")
def features():
    """40 MFCC means of 30 tones whose pitch is the emotion's, and the codes of the emotions."""
    rng = np.random.default_rng(1)
    y = np.arange(30) % 3
    signals = [tone(PITCH_HZ[CLASSES[code]], rng.uniform(0.6, 0.9), rng) for code in y]
    return np.array([vectorise(SPEC, signal, SR, path="x") for signal in signals]), y


@pytest.fixture(scope="module")
def estimators(features):
    """Fitted pipelines by model."""
    return {name: build_quietly(name, params, *features) for name, params in PARAMS.items()}


@pytest.fixture(scope="module")
def bundles(estimators, features):
    """Their bundles, to be saved under any name."""
    return {
        name: bundle_of(estimator, features[0], model=name, classes=CLASSES, params=PARAMS[name])
        for name, estimator in estimators.items()
    }


@pytest.fixture
def save(bundles, tmp_path):
    """Save a bundle as ``results/<run>/models/<entry>``; return its folder."""

    def save(model="svm", *, run="a-00000000", entry=None, corpus="ravdess", uar=0.5, waives="", **changes):
        entry = entry or model
        scores = [{"protocol": "p", "waives": waives, "uar": uar, "war": 1.0, "macro_f1": 1.0}]
        trained_on = {"corpus": corpus, "mono": "mean", **changes.pop("trained_on", {})}
        bundle = changes.pop("bundle", bundles[model])
        content = {"entry": entry, "scores": scores, "trained_on": trained_on, **changes}
        folder = tmp_path / "results" / run / "models" / entry
        write_bundle(folder, changed(bundle, **content))
        return folder

    return save


def build_quietly(name, params, X, y):
    """Fit a model without its remarks on convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(get_model(name), params, random_state=0).fit(X, y)


def run_cli(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def audio_refusal(bundle, *arguments):
    with pytest.raises(AudioError) as caught:
        predict(*arguments, model=bundle)
    return str(caught.value)


# --- one recording --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["svm", "mlp"])
def test_predict_names_the_emotion_of_every_file(bundles, tiny_corpus, model):
    for path in sorted(tiny_corpus.glob("*/*.wav")):
        assert predict(path, model=bundles[model]).emotion == path.name.split("-")[0]


@pytest.mark.parametrize("model", ["svm", "mlp", "dummy"])
def test_predict_of_a_path_and_of_its_signal_agree(bundles, tiny_corpus, model):
    path = tiny_corpus / "s1" / "happy-1.wav"
    recording = read_audio(path)
    of_path, of_signal = (
        predict(path, model=bundles[model]),
        predict(recording.signal, recording.sr, model=bundles[model]),
    )
    assert (of_path.path, of_signal.path) == (str(path), "")
    assert (of_path.emotion, of_path.probabilities) == (of_signal.emotion, of_signal.probabilities)
    assert of_path.entry == model


@pytest.mark.parametrize("sr", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_predict_takes_any_rate_and_channels(bundles, tmp_path, sr, n_channels):
    signal = tone(PITCH_HZ["happy"], 0.8, np.random.default_rng(3), sr=sr)
    many = np.stack([signal] * n_channels, axis=1)
    path = tmp_path / "x.wav"
    soundfile.write(path, many, sr, subtype="FLOAT")
    of_path = predict(path, model=bundles["mlp"])
    for shape in (many, many.astype(np.float64)):
        answer = predict(shape, np.int64(sr), model=bundles["mlp"])
        assert answer.emotion == of_path.emotion
        assert answer.probabilities == pytest.approx(of_path.probabilities, abs=1e-5)


def test_predict_takes_the_channels_as_the_model_was_trained(save):
    rng = np.random.default_rng(3)
    two = np.stack([tone(PITCH_HZ["sad"], 0.8, rng), tone(PITCH_HZ["angry"], 0.8, rng)], axis=1)
    first = read_bundle(save(trained_on={"mono": "first"}))
    assert predict(two, SR, model=first).emotion == predict(two[:, 0], SR, model=first).emotion == "sad"
    assert predict(two[:, ::-1], SR, model=first).emotion == "angry"
    strict = read_bundle(save(entry="strict", trained_on={"mono": "error"}))
    assert "must be mono" in audio_refusal(strict, two, SR)
    assert predict(two[:, :1], SR, model=strict).emotion == "sad"


@pytest.mark.parametrize(
    "signal, sr, says",
    [
        (np.zeros(SR, np.float32), None, "sr must be the sampling rate in Hz"),
        (np.zeros(SR, np.float32), 22_050.0, "sr must be the sampling rate in Hz"),
        (np.zeros(SR, np.float32), True, "sr must be the sampling rate in Hz"),
        (np.zeros(SR, np.float32), 0, "sr must be the sampling rate in Hz"),
        (np.zeros(SR, np.int16), SR, "must be floating point, full scale ±1. Got int16."),
        (np.zeros(SR, complex), SR, "must be floating point"),
        (np.array(["a"]), SR, "must be floating point"),
        (np.zeros(0, np.float32), SR, "must have shape (n_samples,)"),
        (np.zeros((0, 2), np.float32), SR, "must have shape"),
        (np.zeros((2, 2, SR), np.float32), SR, "must have shape"),
        (np.float32(0.5), SR, "must have shape"),
        (np.array([0.0, np.nan] * SR), SR, "every sample must be finite"),
        (np.array([0.0, np.inf] * SR), SR, "every sample must be finite"),
        (np.zeros(50, np.float32), SR, "must last at least 0.1 s."),
        (np.zeros((2, SR), np.float32), SR, "(n_samples, n_channels)"),
    ],
    ids=range(15),
)
def test_predict_refuses_a_signal_that_it_would_misread(bundles, signal, sr, says):
    assert says in audio_refusal(bundles["svm"], signal, sr)


def test_predict_refuses_a_file_that_it_would_misread(bundles, tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello")
    for name, says in (("empty.wav", "empty"), ("text.wav", "text"), ("none.wav", "no such file"), ("", "folder")):
        assert says in audio_refusal(bundles["svm"], tmp_path / name)
    assert "NUL" in audio_refusal(bundles["svm"], "a\0b.wav")
    assert "It is text" in audio_refusal(bundles["svm"], b"hello")


def test_probabilities_are_none_for_a_model_without_and_sum_to_one_else(bundles, tiny_corpus):
    path = tiny_corpus / "s0" / "sad-0.wav"
    assert predict(path, model=bundles["svm"]).probabilities is None
    found = predict(path, model=bundles["mlp"]).probabilities
    assert tuple(found) == CLASSES
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=found.get) == "sad"


def test_class_that_was_never_seen_has_probability_zero(save, features, tiny_corpus):
    X, y = features
    estimator = build_quietly("mlp", PARAMS["mlp"], X[y != 1], y[y != 1])
    bundle = bundle_of(estimator, X[y != 1], model="mlp", classes=CLASSES)
    found = predict(tiny_corpus / "s0" / "happy-0.wav", model=bundle).probabilities
    assert (tuple(found), found["happy"]) == (CLASSES, 0.0)
    assert predict(tiny_corpus / "s0" / "sad-0.wav", model=bundle).emotion == "sad"


def test_silence_is_answered_with_a_warning(bundles, tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(SR), SR)
    for audio in ((path,), (path.read_bytes(),), soundfile.read(path)):
        answer = predict(*audio, model=bundles["svm"])
        assert answer.emotion in CLASSES
        assert "silence" in answer.warning
        assert answer.marks == (SILENT,)


def test_emobench_predict_is_the_same_function(save, tiny_corpus, tmp_path):
    assert emobench.predict is predict
    save()
    answer = emobench.predict(tiny_corpus / "s0" / "angry-0.wav", results=tmp_path / "results")
    assert answer == Prediction(str(tiny_corpus / "s0" / "angry-0.wav"), "angry", None, "svm")


def test_predict_files_goes_on_after_a_bad_one(bundles, tiny_corpus, tmp_path, monkeypatch):
    good = tiny_corpus / "s0" / "sad-0.wav"
    predictor = Predictor(bundles["svm"])
    answers = list(predictor.predict_files([tmp_path / "no.wav", good, tmp_path, "a\0b", good]))
    assert [bool(answer.error) for answer in answers] == [True, False, True, True, False]
    assert [answer.emotion for answer in answers] == ["", "sad", "", "", "sad"]

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("emobench.prediction.predictor.read_audio", fail)
    [answer] = predictor.predict_files([good])
    assert "Input/output error" in answer.error


# --- features that are not those of training (X37) ------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {**SPEC.specification(), "sr": 16_000}},
        {"features": {**SPEC.specification(), "version": 99}},
        {"features": {**SPEC.specification(), "params": {"n_mfcc": 13}}},
        {"features": {**SPEC.specification(), "name": "mfcc99"}},
        {"features": {}},
        {"features": {"name": ["mfcc40"]}},
        {"sr": 16_000},
        {"trained_on": {"mono": "loudest"}},
    ],
    ids=["sr", "version", "params", "unknown", "absent", "no name", "sr beside", "mono"],
)
def test_bundle_of_other_features_is_refused_with_exit_code_2(save, tiny_corpus, capsys, changes):
    folder = save(**changes)
    path = tiny_corpus / "s0" / "sad-0.wav"
    with pytest.raises(BundleError, match=r"must be|Unknown feature set"):
        predict(path, model=folder)
    code, out, err = run_cli(capsys, "predict", path, "--model", folder, "-q")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_bundle_of_fewer_numbers_is_refused(save, features, tiny_corpus):
    X, y = features
    estimator = build_quietly("svm", {}, X[:, :20], y)
    folder = save(bundle=bundle_of(estimator, X[:, :20], model="svm", classes=CLASSES))
    with pytest.raises(BundleError, match="20 numbers"):
        predict(tiny_corpus / "s0" / "sad-0.wav", model=folder)


# --- which bundle ---------------------------------------------------------------------------------------------------


def test_find_bundle_takes_the_best_on_unheard_speakers(save, tmp_path):
    results = tmp_path / "results"
    save("svm", run="a-1", entry="low", uar=0.4)
    best = save("svm", run="a-1", entry="best", uar=0.6)
    save("svm", run="b-1", entry="leaky", uar=0.9, waives="speaker")
    save("svm", run="b-1", entry="unscored", uar=None)
    assert find_bundle(results=results) == best
    assert find_bundle(results / "b-1").name == "leaky"  # neither has an honest score: by name


def test_find_bundle_asks_which_of_several_corpora_or_sets_of_emotions_is_meant(save, bundles, tmp_path, capsys):
    results = tmp_path / "results"
    save("svm", run="a-1", entry="low", uar=0.4)
    real = save("svm", run="a-1", entry="svm", uar=0.6)
    own = save("svm", run="b-1", entry="svm", uar=0.9, corpus="own words")
    other = save("svm", run="c-1", entry="svm", uar=0.5, classes=["anger", "bliss", "grief"])
    for arguments in ((None, results), ("svm", results), (results,)):
        with pytest.raises(BundleError, match="3 corpora or sets of emotions") as caught:
            find_bundle(*arguments)
        assert str(caught.value).splitlines()[1:] == [
            f"  --model {own}  (svm, own words: angry, happy, sad; UAR 0.900)",
            f"  --model {real}  (svm, ravdess: angry, happy, sad; UAR 0.600)",
            f"  --model {other}  (svm, ravdess: anger, bliss, grief; UAR 0.500)",
        ]
    assert find_bundle(results / "b-1") == own
    code, out, err = run_cli(capsys, "predict", "clip.wav", "--results", results)
    assert (code, out, err.count("--model ")) == (2, "", 3)


def test_old_bundles_are_refused_with_the_way_to_new_ones(tmp_path, tiny_corpus, capsys):
    folder = tmp_path / "results" / "a-1" / "models" / "svm"
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"entry": "svm"}))
    path = tiny_corpus / "s0" / "sad-0.wav"
    for options in (
        ["--results", tmp_path / "results"],
        ["-m", folder],
        ["-m", "svm", "--results", tmp_path / "results"],
    ):
        code, out, err = run_cli(capsys, "predict", path, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "an older emobench" in err
        assert "emobench run CONFIG" in err


def test_find_bundle_breaks_ties_by_name(save, tmp_path):
    for run, entry in (("b-1", "svm"), ("a-1", "svm"), ("a-1", "other")):
        save(run=run, entry=entry)
    assert find_bundle(results=tmp_path / "results") == tmp_path / "results" / "a-1" / "models" / "other"
    assert find_bundle("svm", tmp_path / "results") == tmp_path / "results" / "a-1" / "models" / "svm"


def test_find_bundle_by_name_takes_the_best_run_of_it(save, tmp_path):
    save(run="a-1", uar=0.4)
    best = save(run="b-1", uar=0.5)
    save("dummy", run="d-1", uar=0.99)
    assert find_bundle("svm", tmp_path / "results") == best


def test_find_bundle_by_path_takes_a_bundle_its_manifest_a_run_or_a_folder_of_runs(save, tmp_path, monkeypatch):
    folder = save(run="a-1")
    for path in (folder, folder / MANIFEST, folder.parent.parent, tmp_path / "results"):
        assert find_bundle(path, "elsewhere") == folder
    monkeypatch.chdir(tmp_path)
    assert find_bundle("results/a-1", "elsewhere").resolve() == folder
    assert find_bundle("results", "elsewhere").resolve() == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_bundle("~/results/a-1", "elsewhere") == folder
    assert find_bundle("svm", "~/results") == folder


def test_find_bundle_prefers_an_entry_to_a_folder_that_happens_to_have_its_name(save, tmp_path, monkeypatch):
    folder = save()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svm").mkdir()
    assert find_bundle("svm", "results").resolve() == folder


def test_find_bundle_passes_over_what_is_half_written_or_is_none(save, tmp_path):
    results = tmp_path / "results"
    folder = save(uar=0.1)
    half = results / "a-00000000" / "models" / ".svm.new-1234"
    half.mkdir()
    (half / MANIFEST).write_text((folder / MANIFEST).read_text().replace("0.1", "0.9"))
    for run, text in (("b", "not json"), ("c", "[1]"), ("d", '{"entry": ["x"], "scores": 3}'), ("e", "[" * 100_000)):
        (results / run / "models" / "x").mkdir(parents=True)
        (results / run / "models" / "x" / MANIFEST).write_text(text)
    assert find_bundle(results=results) == folder
    assert find_bundle("svm", results) == folder


@pytest.mark.parametrize(
    "model, says",
    [
        ("smv", "none is called 'smv' in {results}. Did you mean 'svm'? Known here: dummy, svm."),
        ("zzz", "none is called 'zzz' in {results}. Known here: dummy, svm."),
        ("a\0b", "none is called"),
        ("~nobody-of-this-name", "none is called"),
        ("x" * 5000, "none is called"),
        ("", "none is called"),
    ],
    ids=["typo", "other", "nul", "user", "long", "empty"],
)
def test_unknown_name_is_answered_with_the_nearest(save, tmp_path, model, says):
    save("svm")
    save("dummy")
    results = tmp_path / "results"
    with pytest.raises(BundleError) as caught:
        find_bundle(model, results)
    assert says.format(results=results) in str(caught.value)


def test_absent_models_are_told_how_to_be_made(tmp_path, tiny_corpus, capsys):
    (tmp_path / "empty").mkdir()
    for arguments in ((None, tmp_path / "none"), ("svm", tmp_path / "none"), (tmp_path / "empty",)):
        with pytest.raises(BundleError, match="Run `emobench run configs/all.yaml` first"):
            find_bundle(*arguments)
    path = tiny_corpus / "s0" / "sad-0.wav"
    for given in (["--results", tmp_path], ["--model", tmp_path / "no"], ["--model", "no", "--results", tmp_path]):
        code, out, err = run_cli(capsys, "predict", path, *given)
        assert (code, out, "Traceback" in err) == (2, "", False)


def test_pickle_is_refused(tmp_path, tiny_corpus, capsys):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04N.")
    code, _, err = run_cli(capsys, "predict", tiny_corpus / "s0" / "sad-0.wav", "--model", path)
    assert (code, "pickle" in err) == (2, True)


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_prints_one_line_a_file(save, tiny_corpus, capsys, tmp_path):
    save("mlp", trained_on={"x": 1})
    files = [tiny_corpus / "s0" / f"{emotion}-0.wav" for emotion in CLASSES]
    code, out, err = run_cli(capsys, "predict", *files, "--results", tmp_path / "results")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert [(path, emotion) for path, emotion, _ in rows] == list(zip(map(str, files), CLASSES, strict=True))
    assert rows[0][2].startswith("angry=")
    assert err.splitlines()[0].startswith("model: mlp (")


def test_command_quiet_says_nothing_but_results(save, tiny_corpus, capsys, tmp_path):
    save()
    code, out, err = run_cli(
        capsys, "predict", tiny_corpus / "s0" / "sad-0.wav", "--results", tmp_path / "results", "-q"
    )
    assert (code, out, err) == (0, f"{tiny_corpus}/s0/sad-0.wav\tsad\n", "")


def test_command_jsonl_is_one_line_a_file_and_goes_on_after_bad_ones(save, tiny_corpus, capsys, tmp_path):
    save()
    good, bad = tiny_corpus / "s0" / "sad-0.wav", tmp_path / "bad.wav"
    bad.write_text("hello")
    code, out, _ = run_cli(
        capsys, "predict", bad, good, "no\nsuch\tfile.wav", good, "--jsonl", "--results", tmp_path / "results"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 4
    assert [row["path"] for row in rows] == [str(bad), str(good), "no\nsuch\tfile.wav", str(good)]
    assert [row["emotion"] for row in rows] == [None, "sad", None, "sad"]
    assert [("error" in row, row["probabilities"], row["entry"]) for row in rows] == [
        (True, None, "svm"),
        (False, None, "svm"),
    ] * 2


@pytest.mark.parametrize("as_json", [True, False], ids=["jsonl", "text"])
def test_command_ends_with_3_when_every_file_is_bad(save, capsys, tmp_path, as_json):
    save()
    bad = (tmp_path / "a.wav", tmp_path / "b.wav")
    options = ["-q", "--jsonl"] if as_json else ["-q"]
    code, out, err = run_cli(capsys, "predict", *bad, "--results", tmp_path / "results", *options)
    assert code == 3
    assert len((out if as_json else err).splitlines()) == 2


def test_command_keeps_odd_names_on_one_line(save, tiny_corpus, capsys, tmp_path):
    save()
    content = (tiny_corpus / "s0" / "sad-0.wav").read_bytes()
    names = ["new\nline.wav", "tab\t.wav", "sepa\u2028rator.wav", 'quo"te.wav', "é ü.wav", "-x.wav", "\x1b[31m.wav"]
    names.append(os.fsdecode(b"latin-\xe9.wav"))
    for name in names:
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in names]
    code, out, _ = run_cli(capsys, "predict", *paths, "--results", tmp_path / "results", "-q")
    assert (code, len(out.splitlines())) == (0, len(names))
    assert all(line.endswith("\tsad") and line.count("\t") == 1 for line in out.splitlines())
    assert "\x1b" not in out
    code, out, _ = run_cli(capsys, "predict", *paths, "--results", tmp_path / "results", "-q", "--jsonl")
    assert [json.loads(line)["path"] for line in out.splitlines()] == list(map(str, paths))


# --- the predictor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["svm", "mlp", "dummy"])
def test_predictor_answers_as_the_estimator_itself(estimators, bundles, tiny_corpus, model):
    """One code path, and the slow one: features, then scikit-learn's own `predict` and `predict_proba`."""
    predictor, estimator = Predictor(bundles[model]), estimators[model]
    paths = sorted(tiny_corpus.glob("*/*.wav"))
    X = np.stack([predictor.features(path) for path in paths])
    codes, proba = predictor.classify(X)
    assert [CLASSES[code] for code in estimator.predict(X)] == [CLASSES[code] for code in codes]
    assert [answer.emotion for answer in predictor.predict_files(paths)] == [CLASSES[code] for code in codes]
    assert predictor.labels(X) == [CLASSES[code] for code in codes]
    assert predictor.has_probabilities == hasattr(estimator, "predict_proba") == (proba is not None)
    if proba is not None:
        np.testing.assert_allclose(proba, estimator.predict_proba(X), atol=1e-5)
        for row, path in zip(proba, paths, strict=True):
            assert list(predictor.predict(path).probabilities.values()) == pytest.approx(row, abs=1e-5)


def test_features_of_a_path_and_of_its_signal_agree(bundles, tiny_corpus):
    predictor, path = Predictor(bundles["svm"]), tiny_corpus / "s1" / "happy-1.wav"
    recording = read_audio(path)
    expected = vectorise(SPEC, recording.signal, recording.sr, path=path)
    np.testing.assert_array_equal(predictor.features(path), expected)
    np.testing.assert_array_equal(predictor.features(recording.signal, recording.sr), expected)


@pytest.mark.parametrize("X", [np.zeros(40), np.zeros((1, 39)), np.full((1, 40), np.nan), np.full((1, 40), np.inf)])
def test_classify_refuses_what_are_no_features(bundles, X):
    with pytest.raises(DataError, match=r"shape \(n, 40\)"):
        Predictor(bundles["svm"]).classify(X)


def test_load_takes_a_folder_a_zip_and_a_name(save, tmp_path, tiny_corpus):
    folder, path = save("mlp"), tiny_corpus / "s0" / "sad-0.wav"
    write_bundle(tmp_path / "mlp.zip", read_bundle(folder), as_zip=True)
    expected = Predictor(read_bundle(folder)).predict(path)
    assert emobench.load is load
    assert emobench.load(folder).predict(path) == load(tmp_path / "mlp.zip").predict(path) == expected
    assert load("mlp", results=tmp_path / "results").predict(path) == load(results=tmp_path / "results").predict(path)


def test_threshold_makes_an_answer_uncertain(bundles, tiny_corpus):
    predictor, path = Predictor(bundles["mlp"]), tiny_corpus / "s0" / "sad-0.wav"
    sure = predictor.predict(path)
    best = sure.probabilities["sad"]
    assert predictor.predict(path, threshold=best).emotion == "sad"
    above = predictor.predict(path, threshold=min(1.0, np.nextafter(best, 2)))
    assert (above.emotion, above.probabilities) == (UNCERTAIN, sure.probabilities)
    for wrong in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(ConfigError, match="0 to 1"):
            predictor.predict_files([path], threshold=wrong)
    with pytest.raises(ConfigError, match="'svm' gives no probabilities"):
        Predictor(bundles["svm"]).predict(path, threshold=0.5)


def test_command_predicts_with_onnxruntime_and_none_of_the_libraries_that_train(save, tiny_corpus):
    code = """
import sys
from emobench.cli import main as cli
try:
    cli.main(sys.argv[1:])
finally:
    heavy = "tensorflow keras xgboost sklearn pandas scipy.stats skl2onnx librosa numba optuna distributed".split()
    unwanted = set(heavy) & set(sys.modules)
    assert not unwanted, unwanted
"""
    run = [sys.executable, "-c", code, "predict", "-q", "--model", str(save()), str(tiny_corpus / "s0" / "sad-0.wav")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.rstrip()[-3:]) == (0, "sad"), done.stderr


# --- many files (X38) -------------------------------------------------------------------------------------------------


@pytest.fixture
def feed(monkeypatch):
    """Put bytes on standard input."""
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("options", [[], ["-0"]], ids=["lines", "nul"])
def test_command_takes_names_from_standard_input(save, tiny_corpus, capsys, feed, options):
    folder, paths = save(), sorted(map(str, tiny_corpus.glob("s0/*.wav")))
    feed(b"".join(os.fsencode(path) + (b"\0" if options else b"\n") for path in paths[1:]) + b"\n" * (not options))
    code, out, _ = run_cli(capsys, "predict", paths[0], "-", "-q", "--jsonl", "-m", folder, *options)
    assert (code, [json.loads(line)["path"] for line in out.splitlines()]) == (0, paths)


def test_command_answers_names_as_they_come(save, tiny_corpus):
    """A program that writes a name and waits for its answer gets it."""
    run = [sys.executable, "-m", "emobench", "predict", "-", "--jsonl", "-q", "-m", str(save())]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        for emotion in CLASSES:
            process.stdin.write(f"{tiny_corpus}/s0/{emotion}-0.wav\n")
            assert json.loads(process.stdout.readline())["emotion"] == emotion
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_command_answers_a_recording_on_standard_input(save, tiny_corpus, capsys, feed, tmp_path, suffix):
    folder, path = save(), tmp_path / f"x.{suffix}"
    signal, sr = soundfile.read(tiny_corpus / "s0" / "sad-0.wav")
    soundfile.write(path, signal, sr)
    feed(path.read_bytes())
    assert run_cli(capsys, "predict", "-", "-q", "-m", folder) == (0, "-\tsad\n", "")
    feed(path.read_bytes())
    code, out, _ = run_cli(capsys, "predict", "-", "-q", "--json", "--window", "0.2", "-m", folder)
    assert (code, json.loads(out)[0]["emotion"]) == (0, "sad")


@pytest.mark.parametrize("content", [bytes(5000), b"RIFF\n\0\0\0WAVE", b"\xff\xfb\x90\x64\n", b"a.wav\0b.wav\0"])
def test_command_refuses_other_bytes_on_standard_input_in_one_line(save, capsys, feed, content):
    feed(content)
    code, out, err = run_cli(capsys, "predict", "-", "-q", "-m", save())
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("error: -: ")


def test_command_answers_each_recording_of_a_folder_in_order(save, tiny_corpus, capsys, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tiny_corpus / "s1", folder / "b")
    shutil.copy(tiny_corpus / "s0" / "sad-0.wav", folder / "a.WAV")
    for junk in ("notes.txt", ".hidden.wav", "b/.DS_Store"):
        (folder / junk).write_text("junk")
    (folder / "c.wav").mkdir()
    code, out, err = run_cli(capsys, "predict", folder, "-q", "--json", "-m", save())
    names = [f"b/{path.name}" for path in sorted((tiny_corpus / "s1").iterdir())]
    assert (code, [row["path"] for row in json.loads(out)], err) == (
        0,
        [str(folder / name) for name in ("a.WAV", *names)],
        "",
    )
    code, out, err = run_cli(capsys, "predict", folder / "c.wav", "-m", save())
    assert (code, out, "c.wav: holds no recordings" in err) == (3, "", True)


def test_answer_that_must_not_be_taken_at_face_value_says_so(save, tiny_corpus, capsys, tmp_path):
    """In text, JSON and CSV, with --quiet too: a generated corpus, a recording that was trained on, silence."""
    seen, other, silent = tiny_corpus / "s0" / "sad-0.wav", tiny_corpus / "s1" / "sad-0.wav", tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(SR), SR)
    shutil.copy(seen, tmp_path / "renamed.wav")
    files = [tmp_path / "renamed.wav", other, silent]
    trained = {"audio_ids": [read_audio(seen).content[:16]], "trained_on": {"is_generated": True}}
    expected = [[SEEN, GENERATED], [GENERATED], [SILENT, GENERATED]]
    folder = save(**trained)
    lines = run_cli(capsys, "predict", *files, "-q", "-m", folder)[1].splitlines()
    assert [line.split("\t")[-1] for line in lines] == [f"[{'; '.join(marks)}]" for marks in expected]
    rows = json.loads(run_cli(capsys, "predict", *files, "-q", "--json", "-m", folder)[1])
    assert [row["marks"] for row in rows] == expected
    table = pd.read_csv(io.StringIO(run_cli(capsys, "predict", *files, "-q", "--csv", "-m", folder)[1]))
    assert table["marks"].str.split("; ").tolist() == expected
    signal, sr = soundfile.read(seen)
    assert predict(signal, sr, model=folder).marks == (SEEN, GENERATED)
    _, _, err = run_cli(capsys, "predict", other, "-m", folder)
    assert "warning: the model was trained on the corpus 'ravdess', which is computer-generated." in err
    assert predict(seen, model=save()).marks == ()


def test_threshold_without_probabilities_names_the_models_that_have_them(save, tiny_corpus, capsys, tmp_path):
    path, folder = tiny_corpus / "s0" / "sad-0.wav", save("svm", uar=0.6)
    code, _, err = run_cli(capsys, "predict", path, "--threshold", "0.5", "-m", folder)
    assert (code, "No other saved model" in err) == (2, True)
    mlp = save("mlp", uar=0.5)
    code, _, err = run_cli(capsys, "predict", path, "--threshold", "0.5", "--results", tmp_path / "results")
    assert (code, f"  --model {mlp}  (mlp, " in err, err.count("--model")) == (2, True, 1)


def test_label_encoder_is_that_of_the_run(bundles):
    """`predict` does without scikit-learn; here it is, and agrees with the bundle's classes on every code."""
    for bundle in bundles.values():
        encoder = Predictor(bundle).label_encoder
        assert isinstance(encoder, LabelEncoder)
        codes = np.arange(len(bundle.manifest.classes))
        assert encoder.inverse_transform(codes).tolist() == bundle.manifest.classes
        assert encoder.transform(bundle.manifest.classes).tolist() == codes.tolist()


def test_command_without_any_name_is_an_error(save, capsys, feed):
    feed(b"\n")
    code, out, err = run_cli(capsys, "predict", "-", "-q", "-m", save())
    assert (code, out, "names none" in err) == (3, "", True)


def test_command_json_is_one_document(save, tiny_corpus, capsys):
    folder, path = save("mlp"), tiny_corpus / "s0" / "sad-0.wav"
    code, out, _ = run_cli(capsys, "predict", path, "--json", "-q", "-m", folder)
    alone = json.loads(out)
    assert (code, alone["emotion"], set(alone["probabilities"])) == (0, "sad", set(CLASSES))
    code, out, _ = run_cli(capsys, "predict", path, "no.wav", "--json", "-q", "-m", folder)
    assert (code, json.loads(out)[0]) == (4, alone)
    assert json.loads(out)[1]["emotion"] is None
    code, out, _ = run_cli(capsys, "predict", path, "--json", "--threshold", "1", "-q", "-m", folder)
    assert (json.loads(out)["emotion"], json.loads(out)["threshold"]) == ("uncertain", 1.0)


def test_command_csv_is_read_by_pandas(save, tiny_corpus, capsys):
    paths = [tiny_corpus / "s0" / "sad-0.wav", "no,such\n.wav"]
    code, out, _ = run_cli(capsys, "predict", *paths, "--csv", "-q", "-m", save("mlp"))
    table = pd.read_csv(io.StringIO(out))
    assert code == 4
    assert table["path"].tolist() == list(map(str, paths))
    assert table["emotion"].fillna("").tolist() == ["sad", ""]
    assert table.loc[0, [f"p_{label}" for label in CLASSES]].sum() == pytest.approx(1)
    assert table["error"].notna().tolist() == [False, True]


def test_output_is_continued_where_it_stopped(save, tiny_corpus, capsys, tmp_path, monkeypatch):
    folder, output = save(), tmp_path / "answers.jsonl"
    paths = sorted(map(str, tiny_corpus.glob("s*/*.wav")))
    late = tmp_path / "late.wav"
    arguments = ["predict", *paths[:20], late, *paths[20:], "-q", "-m", folder, "--output", output]
    code, out, _ = run_cli(capsys, *arguments)
    assert (code, out) == (4, "")
    whole = output.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["path"] for row in rows] == [*paths[:20], str(late), *paths[20:]]

    # Killed in the middle of a line; meanwhile the missing recording has come.
    shutil.copy(paths[0], late)
    output.write_bytes(whole[: whole.index(os.fsencode(paths[22])) + 9])
    read = []
    monkeypatch.setattr(
        "emobench.prediction.predictor.read_audio",
        lambda path, policy: read.append(str(path)) or read_audio(path, policy),
    )
    code, _, _ = run_cli(capsys, *arguments)
    assert (code, read) == (0, [str(late), *paths[22:]])
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(row["path"] for row in again) == sorted([*paths, str(late)])
    assert [row for row in again if row["path"] != str(late)] == [row for row in rows if "error" not in row]

    read.clear()
    output.write_bytes(whole[:12])  # killed in its first line
    assert (run_cli(capsys, *arguments)[0], len(read)) == (0, len(again))

    read.clear()
    before = output.read_bytes()
    assert (run_cli(capsys, *arguments)[0], read, output.read_bytes() == before) == (0, [], True)


def test_output_of_another_model_or_of_something_else_is_left_alone(save, tiny_corpus, capsys, tmp_path):
    path, output = tiny_corpus / "s0" / "sad-0.wav", tmp_path / "answers.jsonl"
    assert run_cli(capsys, "predict", path, "-q", "-m", save("mlp"), "-o", output)[0] == 0
    one = output.read_bytes()
    for options in (["-m", save()], ["-m", save("mlp"), "--threshold", "0.5"]):
        code, _, err = run_cli(capsys, "predict", path, "-q", *options, "-o", output)
        assert (code, "same model and threshold" in err, output.read_bytes() == one) == (2, True, True)
    for content in (b"My thesis\n", b"cut", b"[1]\n", b'{"path": 3}\n', one + b"\n" + one):
        output.write_bytes(content)
        code, _, err = run_cli(capsys, "predict", path, "-q", "-m", save("mlp"), "-o", output)
        assert (code, "must hold answers" in err, output.read_bytes() == content) == (2, True, True)
    assert run_cli(capsys, "predict", path, "-q", "-m", save("mlp"), "-o", tmp_path)[0] == 2


@pytest.mark.slow
def test_ten_thousand_files_of_which_three_are_bad(save, tiny_corpus, capsys, feed, tmp_path):
    good = sorted(map(str, tiny_corpus.glob("*/*.wav")))
    names = [good[i % len(good)] for i in range(10_000)]
    for i, name in ((7, "none.wav"), (5_000, "a\nb.wav"), (9_999, str(tmp_path))):
        names[i] = name
    feed(b"\0".join(map(os.fsencode, names)))
    code, out, _ = run_cli(capsys, "predict", "-", "-0", "--jsonl", "-q", "-m", save())
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 4
    assert [row["path"] for row in rows] == names
    assert [i for i, row in enumerate(rows) if "error" in row] == [7, 5_000, 9_999]
    assert all(row["emotion"] == os.path.basename(row["path"]).split("-")[0] for row in rows if "error" not in row)


# --- export and inspect ---------------------------------------------------------------------------------------------


def test_export_and_inspect(save, tiny_corpus, capsys, tmp_path, monkeypatch):
    folder = save("mlp", entry="mlp-tuned", uar=0.625)
    monkeypatch.chdir(tmp_path)
    for arguments, made in (
        (["a-00000000", "mlp-tuned"], "mlp-tuned"),
        ([tmp_path / "results" / "a-00000000", "mlp-tuned", "--zip"], "mlp-tuned.zip"),
        (["a-00000000", "mlp-tuned", "--output", "other.zip"], "other.zip"),
    ):
        assert run_cli(capsys, "export", *arguments) == (0, f"{made}\n", "")
        assert run_cli(capsys, "predict", tiny_corpus / "s0" / "sad-0.wav", "-q", "-m", made)[0] == 0
        code, out, _ = run_cli(capsys, "inspect", made, "--json")
        shown = json.loads(out)
        sums = shown.pop("sums")
        assert (code, shown.pop("path")) == (0, made)
        assert shown == json.loads((folder / MANIFEST).read_bytes())
        assert sums["model.onnx"] in (folder / "SHA256SUMS").read_text()
        code, out, _ = run_cli(capsys, "inspect", made)
        for text in ("mlp-tuned", "mlp, version 1", "hidden_layer_sizes=[8]", "angry, happy, sad", "ravdess", "0.625"):
            assert text in out
        for text in ("features: float32 (n, 40)", "label: int64 (n)", "probabilities: float32 (n, 3)"):
            assert text in out
        assert f"sum is right: {sums['model.onnx']}" in out


def test_inspect_check_tries_the_model(save, capsys):
    folder = save("mlp")
    code, out, _ = run_cli(capsys, "inspect", folder, "--check", "--json")
    assert (code, json.loads(out)["check"]["n_features"]) == (0, 40)
    assert "the model answers" in run_cli(capsys, "inspect", folder, "--check")[1]
    write_bundle(folder, Bundle.of(read_bundle(folder).manifest, loop(2**62).SerializeToString()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection.try_model, "__kwdefaults__", {"timeout_s": 3.0, "memory_bytes": 2**31})
        code, out, err = run_cli(capsys, "inspect", folder, "--check")
    assert (code, out, "no answer within 3 s" in err) == (2, "", True)


def test_inspect_of_a_damaged_bundle_ends_with_2(save, capsys):
    folder = save()
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])
    code, out, err = run_cli(capsys, "inspect", folder)
    assert (code, out, "model.onnx: damaged" in err) == (2, "", True)


def test_export_names_what_there_is(save, tmp_path):
    save("svm")
    save("dummy")
    folder = save("svm", entry="svm@a+b")
    (folder.parent / "other").mkdir()
    results = tmp_path / "results"
    assert find_entry("a-00000000", "svm@a+b", results) == folder
    with pytest.raises(
        BundleError, match=r"None is called 'svn'. Did you mean 'svm'\? Known there: dummy, svm, svm@a\+b"
    ):
        find_entry("a-00000000", "svn", results)
    with pytest.raises(BundleError, match="There is none. Run its config again"):
        find_entry("b-00000000", "svm", results)
    for name in ("x@1", "x@2", "x@3"):
        shutil.copytree(folder, folder.with_name(name))
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="3 are called 'svm@a[+]b': x@1, x@2, x@3. Name one of these"):
        find_entry("a-00000000", "svm@a+b", results)
