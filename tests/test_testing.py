"""The checks that ship hold of every row of our tables, and each fails on a row that is wrong in just its way."""

import csv
import itertools
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.naive_bayes import GaussianNB

from emobench.corpora import CORPORA, CorpusSpec, Scan, Utterance
from emobench.corpora.scanning import find_files
from emobench.corpora.synthetic.writing import GENERATOR
from emobench.features import FEATURES, FeatureSpec
from emobench.metrics import METRICS, MetricSpec
from emobench.models import Int, ModelSpec
from emobench.models.networks import NETWORKS, NetworkSpec
from emobench.protocols import PROTOCOLS, ProtocolSpec
from emobench.registry import Option, PluginError
from emobench.stresses import STRESSES, Change, StressSpec
from emobench.testing import (
    check_corpus,
    check_features,
    check_metric,
    check_model,
    check_network,
    check_protocol,
    check_stress,
)
from emobench.testing.protocols import design
from emobench.testing.rows import check_row

# --- models (those of the table: test_models) -------------------------------------------------------------------------


class Bayes(ClassifierMixin, BaseEstimator):
    """A model without a fault; the others have one each."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, X, y):
        self.model_ = GaussianNB().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        return self.model_.predict(X)


class IgnoresItsSeed(Bayes):
    def predict(self, X):
        return np.random.default_rng().permutation(self.model_.predict(X))


class DrawsGlobally(Bayes):
    def fit(self, X, y):
        np.random.random()
        return super().fit(X, y)


class RemembersTheLastFit(Bayes):
    def fit(self, X, y):
        self.X_ = np.concatenate([getattr(self, "X_", X), X])
        self.y_ = np.concatenate([getattr(self, "y_", y), y])
        return super().fit(self.X_, self.y_)


class SetsNoClasses(Bayes):
    def fit(self, X, y):
        super().fit(X, y)
        del self.classes_
        return self


class ReturnsCodes(Bayes):
    def predict(self, X):
        return np.searchsorted(self.classes_, super().predict(X))


class ReadsTheBatch(Bayes):
    def predict(self, X):
        return super().predict(X - X.mean(axis=0))


class WritesIntoItsData(Bayes):
    def fit(self, X, y):
        X -= 1
        return super().fit(X, y)


class LosesParameters(Bayes):
    def set_params(self, **params):
        return self


class CannotBePickled(Bayes):
    def fit(self, X, y):
        self.function_ = lambda: None
        return super().fit(X, y)


class IsChance(Bayes):
    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class HasOddProbabilities(Bayes):
    def predict_proba(self, X):
        return 2 * self.model_.predict_proba(X)


class ReadsNames(Bayes):
    def fit(self, X, y):
        return super().fit(X if np.issubdtype(np.asarray(y).dtype, np.number) else -X, y)


WRONG_MODELS = {
    IgnoresItsSeed: "two fits with one random_state differ",
    DrawsGlobally: "draws from the global random generator",
    RemembersTheLastFit: "a second fit remembers the first",
    SetsNoClasses: "fit sets no classes_",
    ReturnsCodes: "never fitted on",
    ReadsTheBatch: "an answer depends on the other rows of the batch",
    WritesIntoItsData: "it writes into its data",
    CannotBePickled: "pickle",
    IsChance: "chance is 0.25",
    HasOddProbabilities: "do not sum to 1",
    ReadsNames: "what the classes are called",
}
# What else a fault shows in, so that the check of its own is reached.
ALSO = {
    IgnoresItsSeed: ("does_not_read_labels", "does_not_order_labels"),
    ReadsTheBatch: (),
    IsChance: ("does_not_order_labels",),
}


def model_row(estimator):
    return ModelSpec("mine", "A model", estimator, is_scaled=False)


def test_model_without_a_fault_passes():
    check_model(model_row(Bayes))


@pytest.mark.parametrize("estimator", WRONG_MODELS, ids=lambda estimator: estimator.__name__)
def test_check_model_fails_on(estimator):
    with pytest.raises((AssertionError, AttributeError, TypeError), match=WRONG_MODELS[estimator]):
        check_model(model_row(estimator), skip=ALSO.get(estimator, ()))


class SeesFrames(Bayes):
    """Takes rows of features only as frames over time."""

    def __init__(self, shape=None, random_state=None):
        super().__init__(random_state)
        self.shape = shape

    def fit(self, X, y):
        return super().fit(X.reshape(len(X), *self.shape).mean(axis=1), y)

    def predict(self, X):
        return super().predict(X.reshape(len(X), *self.shape).mean(axis=1))


def test_model_of_frames_is_checked_with_frames():
    check_model(replace(model_row(SeesFrames), takes=("frames",)))


def test_check_model_refuses_to_skip_what_is_no_check():
    with pytest.raises(AssertionError, match="no check is called beats_chanse"):
        check_model(model_row(Bayes), skip=["beats_chanse"])


@pytest.mark.parametrize(
    "row, says",
    [
        (ModelSpec("a b", "x", Bayes), "its name is 'a b'"),
        (ModelSpec("mine", "", Bayes), "has no title"),
        (ModelSpec("mine", "x", "sklearn.svm"), "not a function, a class or 'module:attribute'"),
        (ModelSpec("mine", "x", "no_such_package.svm:SVC"), "'no_such_package' is not installed"),
        (MetricSpec("mine", "x", "emobench.metrics:uar"), "is a metric, not a model"),
        ({"name": "mine"}, "dict is no row"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_check_row_fails_on(row, says):
    with pytest.raises(AssertionError, match=says):
        check_row(row, "model")


def test_check_row_names_a_target_that_is_not_there():
    with pytest.raises(PluginError, match=r"estimator of the model 'mine': 'sklearn\.svm:SVD' cannot be loaded"):
        check_row(ModelSpec("mine", "x", "sklearn.svm:SVD"), "model")


# --- feature sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_the_table_keep_the_contract(name):
    check_features(FEATURES[name])


def identity(signal, *, sr):
    return np.stack([np.abs(np.fft.rfft(signal, 64)[:8])], axis=1).astype(np.float32)


def mean(frames):
    return frames.mean(axis=1)


def feature_row(frames=identity, summary=mean, n_features=8):
    return FeatureSpec("mine", "A spectrum", frames, summary, n_features)


class DependsOnTheClipBefore:
    def __init__(self):
        self.last = 0.0

    def __call__(self, frames):
        self.last, before = frames.mean(), self.last
        return frames.mean(axis=1) - before


def random_mean(frames):
    return frames.mean(axis=1) + np.random.default_rng().random()


def normalised_mean(frames):
    return frames.mean(axis=1) / frames.std()


def spoiling(signal, *, sr):
    signal *= 2
    return identity(signal, sr=sr)


def constant(frames):
    return np.zeros(8, np.float32)


def failing(frames):
    raise RuntimeError("no frames")


def cut(frames):
    """Return two windows of four frames of two channels."""
    return np.stack([frames[:, 0].reshape(4, 2), frames[::-1, 0].reshape(4, 2)])


def none(frames):
    return np.empty((0, 4, 2), np.float32)


def test_features_without_a_fault_pass():
    check_features(feature_row())


def test_frames_without_a_fault_pass():
    check_features(replace(feature_row(summary=cut), shape=(4, 2)))


@pytest.mark.parametrize(
    "row, says",
    [
        (feature_row(summary=DependsOnTheClipBefore()), "depend on the signal before it|other features the next time"),
        (feature_row(summary=random_mean), "other features the next time"),
        (feature_row(summary=normalised_mean), "are not finite"),
        (feature_row(frames=spoiling), "read-only"),
        (feature_row(summary=constant), "two signals have the same features"),
        (feature_row(summary=failing), "fails on noise: RuntimeError: no frames"),
        (feature_row(n_features=7), r"have shape \(8,\), and the row says \(7,\)"),
        (replace(feature_row(), shape=(4, 2)), r"have shape \(8,\), and the row says \(n_windows, 4, 2\)"),
        (replace(feature_row(summary=cut), shape=(2, 4)), r"shape \(2, 4, 2\), and the row says \(n_windows, 2, 4\)"),
        (replace(feature_row(summary=none), shape=(4, 2)), r"shape \(0, 4, 2\)"),
        (replace(feature_row(), shape=(4, 3)), "has shape \\(4, 3\\); n_features=8"),
    ],
    ids=[
        *("the clip before", "random", "not finite", "changes the signal", "constant", "raises", "shape"),
        *("a vector for frames", "channels for frames", "no window", "impossible shape"),
    ],
)
def test_check_features_fails_on(row, says):
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=says):
        check_features(row)


class RemembersAnotherSignal:
    """Deterministic of the same signal twice in a row, so that only a signal between them shows the fault."""

    def __init__(self):
        self.last = self.before = None

    def __call__(self, frames):
        if self.last is None or not np.array_equal(frames, self.last):
            self.last, self.before = frames, self.last
        return frames.mean(axis=1) + (0 if self.before is None else self.before.mean())


def test_check_features_fails_on_a_memory_that_only_another_signal_shows():
    with pytest.raises(AssertionError, match="depend on the signal before it"):
        check_features(feature_row(summary=RemembersAnotherSignal()))


# --- corpora ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for speaker, emotion in itertools.product(["ann", "bob"], ["sad", "happy"]):
        path = tmp_path / "corpus" / speaker / f"{emotion}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "corpus"


def scan(root, *, suffix=".wav"):
    files, ignored = find_files(root, [suffix])
    return Scan(tuple(utterance(path) for path in files), tuple(ignored))


def utterance(path):
    speaker, _, emotion = path.removesuffix(".wav").rpartition("/")
    return Utterance(path=path, corpus="", speaker=speaker, emotion=emotion)


def corpus_row(scan=scan, **fields):
    return CorpusSpec("mine", "A corpus", scan, **fields)


def scan_in_turn(root, calls=itertools.count()):  # noqa: B008  (the counter is the fault)
    return Scan(scan(root).utterances[next(calls) % 2 :])


def scan_by_place(root):
    return Scan(tuple(one for one in scan(root).utterances if one.speaker == "ann" or "elsewhere" not in root.parts))


def scan_junk(root):
    paths = [path.relative_to(root).as_posix() for path in root.rglob("*.wav")]
    return Scan(tuple(utterance(path) for path in paths if "/" in path))


def test_corpus_without_a_fault_passes(folder):
    check_corpus(corpus_row(options={"suffix": Option(str, ".wav")}), folder)
    check_corpus(corpus_row(options={"suffix": Option(str, ".wav")}), folder, suffix=".WAV")


@pytest.mark.parametrize(
    "scan, says",
    [
        (scan_in_turn, "scanned differently the next time"),
        (scan_by_place, "a copy of the folder elsewhere is scanned differently"),
        (scan_junk, "what systems leave behind is a recording"),
    ],
    ids=["unstable", "place", "junk"],
)
def test_check_corpus_fails_on(folder, scan, says):
    with pytest.raises(AssertionError, match=says):
        check_corpus(corpus_row(scan), folder)


def test_corpora_of_the_table_keep_the_contract(tmp_path, folder):
    clips = [
        f"Actor_{actor:02d}/03-01-{emotion:02d}-01-01-01-{actor:02d}.wav" for actor in (1, 2) for emotion in (3, 4)
    ]
    for clip in clips:
        (tmp_path / "ravdess" / clip).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ravdess" / clip).touch()
    check_corpus(CORPORA["ravdess"], tmp_path / "ravdess")
    GENERATOR.make(tmp_path / "synthetic", n_speakers=1, n_jobs=1, progress=lambda n_done: None)
    check_corpus(CORPORA["synthetic"], tmp_path / "synthetic")
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "speaker", "emotion"), ("ann/sad.wav", "ann", "sad")])
    check_corpus(CORPORA["manifest"], folder, path=folder / "manifest.csv")


# --- protocols --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_of_the_table_keep_the_contract(name, tmp_path):
    options = {}
    if "path" in PROTOCOLS[name].options:
        labels = design()
        rows = [("utterance", "fold"), *((id, int(speaker) % 3) for id, speaker in zip(labels.ids, labels.speakers))]  # noqa: B905
        with open(tmp_path / "folds.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
        options["path"] = str(tmp_path / "folds.csv")
    check_protocol(PROTOCOLS[name], **options)


def halves(labels, *, n_parts=2, seed):
    speakers = sorted(set(labels.speakers))
    return np.array([speakers.index(speaker) % n_parts for speaker in labels.speakers])


def by_row(labels, *, seed):
    return np.arange(len(labels.ids)) % 3


def by_first_appearance(labels, *, seed):
    order = list(dict.fromkeys(labels.speakers))
    return np.array([order.index(speaker) % 3 for speaker in labels.speakers])


def at_random(labels, *, seed):
    dealt = dict.fromkeys(sorted(set(labels.speakers)))
    dealt = dict(zip(dealt, np.random.default_rng().integers(0, 3, len(dealt)), strict=True))
    return np.array([dealt[speaker] for speaker in labels.speakers])


def protocol_row(assign, **fields):
    return ProtocolSpec("mine", "A protocol", assign, **fields)


def test_protocol_without_a_fault_passes():
    check_protocol(protocol_row(halves, options={"n_parts": Option(int, 2, ge=2)}), n_parts=4)
    check_protocol(protocol_row(halves), design(n_speakers=3))


@pytest.mark.parametrize(
    "row, says",
    [
        (protocol_row(by_row), "must share no speaker"),
        (protocol_row(by_first_appearance), "depend on the order of the utterances"),
        (protocol_row(at_random), "other folds the next time"),
        (protocol_row(halves, options={"n_parts": Option(int, 1, ge=2)}), "the default of n_parts is not allowed"),
        (protocol_row(halves, options={"n_parts": Option(int)}), "give the option n_parts"),
    ],
    ids=["shares a speaker unsaid", "order", "random", "default", "no default"],
)
def test_check_protocol_fails_on(row, says):
    with pytest.raises(AssertionError, match=says):
        check_protocol(row)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_table_keep_the_contract(name):
    check_network(NETWORKS[name])


def stacked(shape, n_classes, *middle, activation="softmax"):
    from keras import Sequential, layers

    end = layers.Dense(n_classes, activation=activation)
    return Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(8), *middle, end])


def plain_network(shape, n_classes, *, units=8):
    return stacked(shape, n_classes)


def logits(shape, n_classes):
    return stacked(shape, n_classes, activation=None)


def three_classes(shape, n_classes):
    return stacked(shape, 3)


def centred_on_the_batch(shape, n_classes):
    import keras

    class Centred(keras.layers.Layer):
        def call(self, X):
            return X - keras.ops.mean(X, axis=0, keepdims=True)

    return stacked(shape, n_classes, Centred())


def weighted_by_chance(shape, n_classes):
    import keras

    return stacked(shape, n_classes, keras.layers.Rescaling(np.random.default_rng().uniform(0.5, 2)))


def network_row(build, **fields):
    return NetworkSpec("mine", "A network", build, takes=("vector",), **fields)


def test_network_without_a_fault_passes():
    check_network(network_row(plain_network, space={"units": Int(4, 16)}))


@pytest.mark.parametrize(
    "row, says",
    [
        (network_row(logits), "not probabilities"),
        (network_row(three_classes), "output of shape"),
        (network_row(centred_on_the_batch), "depends on the rest of the batch"),
        (network_row(weighted_by_chance), "two fits with one random_state differ"),
        (network_row(plain_network, space={"layers": Int(1, 3)}), "names layers, which is no option"),
    ],
    ids=["logits", "classes", "batch", "seed", "space"],
)
def test_check_network_fails_on(row, says):
    with pytest.raises(AssertionError, match=says):
        check_network(row)


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_the_table_keep_the_contract(name):
    check_metric(METRICS[name])


def kappa(tables):
    n = tables.sum(axis=(-2, -1))
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    return (tables.trace(axis1=-2, axis2=-1) / n - expected) / (1 - expected)


def of_the_first_half(y_true, proba):
    return np.mean(y_true[:100] == proba[:100].argmax(axis=1))


def drifting(tables, calls=itertools.count()):  # noqa: B008  (the counter is the fault)
    return tables.trace(axis1=-2, axis2=-1) + next(calls)


def undefined(tables):
    return np.full(tables.shape[:-2], np.nan)


def metric_row(score, **fields):
    return MetricSpec("mine", "A metric", score, **fields)


def test_metric_without_a_fault_passes():
    check_metric(metric_row(kappa))


@pytest.mark.parametrize(
    "row, says",
    [
        (metric_row(of_the_first_half, of="predictions"), "depends on the order of the utterances"),
        (metric_row(drifting), "another score the next time"),
        (metric_row(undefined), "not defined of usual predictions"),
        (metric_row(kappa, is_greater_better=False), "less is better, says the row, but"),
    ],
    ids=["order", "drifts", "NaN", "direction"],
)
def test_check_metric_fails_on(row, says):
    with pytest.raises(AssertionError, match=says):
        check_metric(row)


# --- stresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRESSES)
def test_stresses_of_the_table_keep_the_contract(name):
    check_stress(STRESSES[name])


def louder(signal, sr, level):
    return signal * np.float32(level)


def in_place(signal, sr, level):
    signal *= level
    return signal


def drawn_globally(signal, sr, level):
    return signal + np.random.default_rng().normal(size=len(signal)).astype(np.float32)


def drawn_alike(signal, sr, level, *, rng):
    return signal + np.random.default_rng(0).normal(size=len(signal)).astype(np.float32)


def divided_by_its_peak(signal, sr, level):
    with np.errstate(all="ignore"):
        return signal / np.abs(signal).max()


@pytest.mark.parametrize(
    "apply, more, problem",
    [
        (in_place, {}, "read-only"),
        (drawn_globally, {}, "differently the next time"),
        (drawn_alike, {"is_random": True}, "every recording gets the same draw"),
        (divided_by_its_peak, {}, "on silence"),
        (lambda signal, sr, level: signal, {}, "cannot be sent|changes nothing"),
        (louder, {"levels": (2.0, 1.0)}, "1 changes nothing"),
        (louder, {"levels": (2.0, 2.0)}, "stands twice"),
        (louder, {"judged": (3.0,)}, "judged at"),
        (louder, {"thresholds": {"war": 1}}, "thresholds of war"),
    ],
)
def test_check_stress_finds(apply, more, problem):
    with pytest.raises(AssertionError, match=problem):
        check_stress(StressSpec("wrong", "Wrong", apply, **{"levels": (2.0,), **more}))


def test_check_stress_accepts_a_function_of_ones_own():
    check_stress(StressSpec("louder", "Louder", louder, levels=(2.0,), unit="times"))


def test_a_stress_without_levels_is_refused():
    assert "finite numbers" in StressSpec("louder", "Louder", louder, levels=()).problem()


def test_a_change_is_identified_by_what_its_samples_depend_on():
    one = Change("gain", 6).specification()
    assert one == Change("gain", 6.0).specification()
    assert one != Change("gain", 20).specification()
    assert one != Change("gain", 6, seed=1).specification()
