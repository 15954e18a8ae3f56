"""Prediction with a saved model beside what one would write by hand, on one thread.

    pytest benchmarks/bench_prediction.py --benchmark-enable --benchmark-only

Both give the same answers. Models are fitted on noise, since their speed does not depend on what they have learned; the
clip is as long as RAVDESS's. `emobench latency` measures the same in fresh processes, with noise floors.
"""

import os

os.environ |= dict.fromkeys(  # before the libraries read them
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
)

import statistics
import subprocess
import sys
import time

import librosa
import numpy as np
import pytest
import soundfile

from emobench import models
from emobench.bundles.export import export
from emobench.bundles.manifest import describe
from emobench.bundles.storage import Bundle, write_bundle
from emobench.features import get_features
from emobench.prediction import latency
from emobench.prediction.predictor import load
from emobench.registry import resolve

CLASSES = ("angry", "calm", "fearful", "happy", "sad")
HOUR_S = 3600
RATES = {"cnn": "at least 12", "svm": "at least 2"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(latency.write_clip(tmp_path_factory.mktemp("clip") / "clip.wav"))


@pytest.fixture(scope="module")
def clips():
    """Features and codes of as many clips as five sixths of RAVDESS' five emotions."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 800)
    return (rng.normal(size=(800, 40)) + 0.5 * rng.normal(size=(5, 40))[y]).astype(np.float32), y


@pytest.fixture(scope="module")
def estimators(clips):
    params = {"svm": {}, "cnn": {"epochs": 1}}
    return {name: models.build(models.get_model(name), params[name], random_state=0).fit(*clips) for name in RATES}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, clips, estimators):
    """Folder of each model's bundle."""
    spec, folder = get_features("mfcc40"), tmp_path_factory.mktemp("models")
    for name, estimator in estimators.items():
        converter = resolve(models.get_model(name).converter)
        onnx, parity = export(estimator, clips[0], n_classes=5, converter=converter)
        about = {"features": spec.specification(), "sr": spec.sr, "n_features": 40, "classes": CLASSES}
        about |= {"identity": name, "entry": name, "model": name}
        manifest = describe(**about, has_probabilities=parity.max_difference is not None)
        write_bundle(folder / name, Bundle.of(manifest, onnx))
    return folder


@pytest.fixture(scope="module")
def predictors(bundles):
    return {name: load(bundles / name) for name in RATES}


@pytest.fixture(scope="module")
def by_hand(predictors, estimators):
    """What one would write: from a path, and from features, to a label."""
    encoder, svm, cnn = predictors["svm"].label_encoder, estimators["svm"], estimators["cnn"]
    scaler, network = cnn.named_steps["scale"], cnn.named_steps["model"].network_

    def classify_svm(X):
        return encoder.inverse_transform(svm.predict(X))

    def classify_cnn(X):
        return encoder.inverse_transform(
            network.predict(scaler.transform(X)[..., np.newaxis], verbose=0).argmax(axis=1)
        )

    def features(path):
        signal, sr = librosa.load(path)
        return librosa.feature.mfcc(y=signal, sr=sr, n_mfcc=40).mean(axis=1)[np.newaxis]

    def whole(classify):
        return lambda path: classify(features(path))

    return {"svm": (classify_svm, whole(classify_svm)), "cnn": (classify_cnn, whole(classify_cnn))}


def compare(benchmark, ours, base, *, how, rounds=30, promised=""):
    """Time a call, and before each round of it the one that it is compared with: so both see the same machine."""
    base_s = []

    def in_turn():
        started = time.perf_counter()
        base()
        base_s.append(time.perf_counter() - started)

    answer = benchmark.pedantic(ours, setup=in_turn, rounds=rounds, warmup_rounds=2)
    benchmark.extra_info |= {"how": how, "base_s": statistics.median(base_s[2:]), "promised": promised}
    return answer


@pytest.mark.parametrize("model", RATES)
def test_wav_to_label(benchmark, predictors, by_hand, clip, model):
    benchmark.group = f"wav → label, {model}"
    ours, base = (lambda: predictors[model].predict(clip).emotion), (lambda: by_hand[model][1](clip)[0])
    assert compare(benchmark, ours, base, how="ratio", promised=RATES[model]) == base()


@pytest.mark.parametrize("model", RATES)
def test_wav_to_label_by_hand(benchmark, by_hand, clip, model):
    benchmark.group = f"wav → label, {model}"
    benchmark.pedantic(by_hand[model][1], (clip,), rounds=30, warmup_rounds=2)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("model", RATES)
def test_features_to_label(benchmark, predictors, by_hand, model, batch):
    benchmark.group = f"features → label, {model}, batch {batch}"
    X = np.random.default_rng(1).normal(size=(batch, 40)).astype(np.float32)
    ours, base = (lambda: predictors[model].labels(X)), (lambda: by_hand[model][0](X))
    assert list(compare(benchmark, ours, base, how="ratio")) == list(base())


@pytest.mark.parametrize("model", RATES)
def test_decoding_and_features_alone(benchmark, predictors, clip, model):
    """How much of a prediction is the model: a loaded bundle takes at most 1.3 times what these take."""
    benchmark.group = f"wav → label, {model}"
    features, whole = (lambda: predictors[model].features(clip)), (lambda: predictors[model].predict(clip))
    compare(benchmark, features, whole, how="share", promised="at most 1.3")


def test_whole_process(benchmark, bundles, clip):
    benchmark.group = "emobench predict, svm, beside `import sklearn.svm`"
    run = "from emobench.cli.main import app; app(sys.argv[1:], standalone_mode=False)"
    code = f"import sys; {run}; print(*sys.modules)"
    arguments = ["predict", clip, "--model", str(bundles / "svm")]

    def call(*command):
        done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    ours, base = (lambda: call("-m", "emobench", *arguments)), (lambda: call("-c", "import sklearn.svm"))
    compare(benchmark, ours, base, how="process", rounds=5, promised="at most 1")
    assert not {"tensorflow", "keras", "sklearn", "pandas"} & set(call("-c", code, *arguments)[-1].split())


def test_one_hour_in_windows(benchmark, predictors, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", samplerate=48_000, channels=1, subtype="PCM_16") as file:
        for _ in range(HOUR_S // 60):
            file.write(0.1 * rng.standard_normal(60 * 48_000).astype(np.float32))

    def call():
        return sum(1 for _ in predictors["svm"].predict_windows(path, window_s=3.0, hop_s=1.0))

    benchmark.group = "one hour in windows, svm"
    benchmark.extra_info |= {"how": "real time", "base_s": HOUR_S, "promised": "at least 200"}
    assert benchmark.pedantic(call, rounds=2) == HOUR_S - 2
