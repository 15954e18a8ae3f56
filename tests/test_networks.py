"""Networks are rows, and any of them is a scikit-learn classifier that Keras trains."""

import copy
import hashlib
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from emobench.errors import ConfigError, UnknownNameError
from emobench.models import networks
from emobench.models.keras_classifier import PATIENCE, DivergedError, KerasClassifier, one_graph
from emobench.models.networks import NETWORKS, NetworkSpec, build_network, get_network
from emobench.models.scaling import ChannelScaler

EMOTIONS = np.array(["angry", "calm", "fearful", "happy", "sad"])
SMALL = {"filters": 16}
SHAPES = {"vector": (40, 1), "frames": (50, 8)}


@pytest.fixture(scope="module")
def clips():
    """90 clips of 40 features in 5 emotions that can be told apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 90)
    X = rng.normal(size=(90, 40)) + rng.normal(size=(5, 40))[y]
    return X.astype(np.float32), EMOTIONS[y]


@pytest.fixture(scope="module")
def fitted(clips):
    """A classifier after three epochs. Do not fit it again."""
    return KerasClassifier(epochs=3, random_state=0).fit(*clips)


@pytest.fixture
def network(monkeypatch):
    """Put a network into the table, as a plug-in does, and return a small classifier of it."""

    def add(build, **params):
        monkeypatch.setitem(NETWORKS, "mine", NetworkSpec(name="mine", title="A newcomer's", build=build))
        return KerasClassifier("mine", **{"epochs": 1, "random_state": 0} | params)

    return add


def dense(shape, n_classes, *, activation="softmax", penalty=0.0):
    from keras import Input, Sequential, layers, regularizers

    answer = layers.Dense(n_classes, activation=activation, kernel_regularizer=regularizers.L2(penalty))
    return Sequential([Input(shape), layers.Flatten(), answer])


def shape_of(spec):
    return SHAPES[spec.takes[0]]


def bits(model):
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.weights_)).hexdigest()


def run(program, **environment):
    """Run Python in a fresh process, and return what it prints to stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, check=True, capture_output=True, text=True
    )


# The table


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_row_is_complete(spec):
    assert NETWORKS[spec.name] is spec
    assert spec.title
    assert spec.version >= 1
    assert spec.takes
    assert set(spec.takes) <= set(SHAPES)
    assert set(spec.space) <= set(spec.options())


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_network_gives_probabilities_for_one_clip(spec, n_classes):
    shape = shape_of(spec)
    built = build_network(spec, shape, n_classes, {})
    proba = np.asarray(built(np.ones((1, *shape), np.float32)))
    assert built.output_shape == (None, n_classes)
    assert proba.shape == (1, n_classes)
    assert proba.sum() == pytest.approx(1, abs=1e-5)


def test_reference_is_the_network_of_the_design():
    built = build_network(get_network("reference"), (40, 1), 5, {})
    layers = [
        (type(layer).__name__, getattr(layer, "filters", None) or getattr(layer, "rate", None))
        for layer in built.layers
    ]
    assert built.input_shape == (None, 40, 1)
    assert layers == [
        ("Conv1D", 128), ("Dropout", 0.1), ("MaxPooling1D", None), ("Conv1D", 128), ("Dropout", 0.1), ("Flatten", None),
        ("Dense", None),
    ]  # fmt: skip
    assert built.count_params() == (5 + 1) * 128 + (5 * 128 + 1) * 128 + (5 * 128 + 1) * 5
    assert np.asarray(built(np.zeros((1, 40, 1)))).shape == (1, 5)


def test_get_network_of_a_typo_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Unknown network 'refrence'\. Did you mean 'reference'\?"):
        get_network("refrence")


def test_unknown_option_names_the_nearest(clips):
    with pytest.raises(ConfigError, match=r"'filter' of network 'reference'\. Did you mean 'filters'\? .*dropout, "):
        KerasClassifier(options={"filter": 3}).fit(*clips)


def takes_units(shape, n_classes, units=3, *, rate=0.5):
    raise NotImplementedError


def takes_anything(shape, n_classes, **options):
    return dense(shape, n_classes, **options)


def test_options_are_what_the_function_takes():
    spec = NetworkSpec(name="mine", title="A newcomer's", build=takes_units)
    assert spec.options() == {"units": 3, "rate": 0.5}
    spec.check_options({"units": 4})
    with pytest.raises(ConfigError, match="Known options: rate, units"):
        spec.check_options({"shape": (3, 1)})


def test_function_that_passes_options_on_takes_any(clips, network):
    assert network(takes_anything, options={"penalty": 0.1}).fit(*clips).n_iter_ == 1
    with pytest.raises(ConfigError, match="cannot be built .*unexpected keyword argument 'depth'"):
        network(takes_anything, options={"depth": 3}).fit(*clips)


def test_import_and_options_need_no_tensorflow():
    done = run(
        "import sys, emobench.models.networks as networks, emobench.models.keras_classifier\n"
        "print([spec.options() for spec in networks.NETWORKS.values()] and {'tensorflow', 'keras'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n"


# The estimator


EXPECTED_FAILURES = {
    "check_methods_sample_order_invariance": "wants 1e-9; float32 sums move by 6e-8 with a row's place in its batch",
}


@pytest.mark.slow
@parametrize_with_checks(
    [KerasClassifier(epochs=20, options={"filters": 16, "dropout": 0.0}, learning_rate=1e-2)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
    xfail_strict=False,
)
def test_keras_classifier_is_a_scikit_learn_classifier(estimator, check):
    check(estimator)


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_network_learns_what_can_be_told_apart_and_nothing_from_noise(spec):
    rng = np.random.default_rng(0)
    shape = shape_of(spec)
    y = np.arange(120) % 3
    noise = rng.normal(size=(120, *shape))
    X = noise + rng.normal(size=(3, 1, shape[1]) if "frames" in spec.takes else (3, *shape))[y]
    model = KerasClassifier(spec.name, shape=shape, epochs=15, optimizer="adam", learning_rate=3e-3, random_state=0)
    assert model.fit(X[:90].reshape(90, -1), y[:90]).score(X[90:].reshape(30, -1), y[90:]) > 0.9
    assert model.fit(noise[:90].reshape(90, -1), y[:90]).score(noise[90:].reshape(30, -1), y[90:]) < 0.6


def test_classifier_predicts_the_labels_it_was_given(clips, fitted):
    X, _ = clips
    proba = fitted.predict_proba(X)
    assert list(fitted.classes_) == list(EMOTIONS)
    assert proba.shape == (90, 5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(fitted.predict(X), EMOTIONS[proba.argmax(axis=1)])
    assert fitted.predict(X[:1]).shape == (1,)


def test_one_clip_enters_the_reference_as_1_40_1(clips, fitted):
    clip = clips[0][:1].reshape(1, 40, 1)
    np.testing.assert_allclose(np.asarray(fitted.network_(clip)), fitted.predict_proba(clips[0][:1]), atol=1e-6)
    assert fitted.network_.input_shape == (None, 40, 1)


def test_one_clip_is_answered_as_in_a_batch(clips, fitted):
    alone = np.vstack([fitted.predict_proba(row[None]) for row in clips[0]])
    np.testing.assert_allclose(alone, fitted.predict_proba(clips[0]), atol=1e-6)


def test_many_clips_are_answered_as_few(clips, fitted):
    X = np.tile(clips[0], (7, 1))
    np.testing.assert_allclose(fitted.predict_proba(X)[-90:], fitted.predict_proba(clips[0]), atol=1e-6)


def test_network_is_a_compiled_sequential(fitted):
    import keras

    assert isinstance(fitted.network_, keras.Sequential)
    assert isinstance(fitted.network_.optimizer, keras.optimizers.RMSprop)
    assert isinstance(fitted.network_.loss, keras.losses.SparseCategoricalCrossentropy)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_optimizer_is_that_of_keras(clips, optimizer):
    model = KerasClassifier(epochs=1, options=SMALL, optimizer=optimizer, learning_rate=2e-3).fit(*clips)
    assert type(model.network_.optimizer).__name__.lower() == optimizer
    assert float(model.network_.optimizer.learning_rate) == pytest.approx(2e-3)


def test_frames_are_scaled_by_channel_in_a_pipeline():
    rng = np.random.default_rng(0)
    y, speakers = np.arange(60) % 2, np.arange(60) // 15
    X = rng.normal(size=(60, 20, 3)) + y[:, None, None] * [0, 1, 0] + [0, 50, 0]
    network = KerasClassifier("cnn-frames", options=SMALL, shape=(20, 3), epochs=15, batch_size=8, random_state=0)
    model = make_pipeline(ChannelScaler(3), network)
    scores = cross_val_score(model, X.reshape(60, -1), y, groups=speakers, cv=GroupKFold(2), error_score="raise")
    assert scores.mean() > 0.9


# Training is that of Keras


def test_training_is_that_of_keras_over_the_same_batches(clips):
    X, y = clips
    codes, order = np.searchsorted(EMOTIONS, y), np.random.default_rng(1).permutation(90)
    inputs = X[..., None]
    models = [
        KerasClassifier(options=SMALL | {"dropout": 0.0}, epochs=1, random_state=0).fit(X, y).network_ for _ in range(2)
    ]
    loss = one_graph(models[0], models[0].train_step, (inputs, codes), 32)(order)
    expected = []
    for rows in (order[:32], order[32:64], order[64:]):
        models[1].reset_metrics()
        expected.append(models[1].train_on_batch(inputs[rows], codes[rows]) * len(rows))
    assert loss == pytest.approx(np.sum(expected) / 90, rel=1e-5)
    for weight, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 89, 90, 500])
def test_every_clip_is_trained_on_once_an_epoch(clips, network, batch_size):
    X, y = clips
    model = network(dense, batch_size=batch_size, learning_rate=1e-9).fit(X, y)
    codes = np.searchsorted(EMOTIONS, y)
    log_loss = -np.log(model.predict_proba(X)[np.arange(90), codes]).mean()
    assert model.loss_curve_ == [pytest.approx(log_loss, rel=1e-4)]
    assert int(model.network_.optimizer.iterations) == -(-90 // batch_size)


def test_penalties_of_a_layer_are_part_of_the_loss(clips, network):
    plain, penalised = (network(dense, options={"penalty": p}).fit(*clips).loss_curve_[0] for p in (0.0, 10.0))
    assert penalised > plain + 1


def test_class_weights_favour_a_rare_class(clips):
    X, y = clips
    y = np.where(y == "sad", "sad", "other")
    model = KerasClassifier(epochs=2, options=SMALL, random_state=0)
    recall = [
        (clone(model).set_params(class_weight=weight).fit(X, y).predict(X)[y == "sad"] == "sad").mean()
        for weight in (None, "balanced", {"sad": 100.0, "other": 1.0})
    ]
    assert recall[0] < recall[1] <= recall[2] == 1


def test_label_smoothing_lowers_confidence(clips):
    model = KerasClassifier(epochs=30, options=SMALL, learning_rate=3e-3, random_state=0)
    plain, smooth = (clone(model).set_params(label_smoothing=s).fit(*clips).predict_proba(clips[0]) for s in (0, 0.3))
    assert smooth.max(axis=1).mean() < plain.max(axis=1).mean() - 0.1
    assert (smooth.argmax(axis=1) == plain.argmax(axis=1)).mean() > 0.9


# Equal seeds, equal bits


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_network_is_bit_identical_for_the_same_seed(spec):
    rng = np.random.default_rng(0)
    shape = shape_of(spec)
    X, y = rng.normal(size=(50, shape[0] * shape[1])), np.arange(50) % 3
    model = KerasClassifier(spec.name, shape=shape, epochs=2, random_state=3)
    first = bits(model.fit(X, y))
    random.seed(7)
    np.random.seed(7)
    assert bits(clone(model).fit(X, y)) == first
    assert bits(model.fit(X, y)) == first
    assert bits(clone(model).set_params(random_state=4).fit(X, y)) != first


FRESH = """
import hashlib, numpy as np
from emobench.models.keras_classifier import KerasClassifier
from emobench.models.networks import NETWORKS
rng = np.random.default_rng(0)
sums = hashlib.sha256()
for name, spec in NETWORKS.items():
    shape = (40, 1) if "vector" in spec.takes else (50, 8)
    X, y = rng.normal(size=(70, shape[0] * shape[1])), np.arange(70) % 5
    model = KerasClassifier(name, shape=shape, epochs=2, optimizer="adamw", random_state=5).fit(X, y)
    for weight in model.weights_:
        sums.update(weight.tobytes())
print(sums.hexdigest())
"""


@pytest.mark.slow
def test_networks_are_bit_identical_in_fresh_processes():
    done = [run(FRESH, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert len(done[0].stdout.strip()) == 64
    assert done[0].stdout == done[1].stdout
    assert [one.stderr for one in done] == ["", ""]  # nothing of TensorFlow's either


def test_classifier_leaves_global_generators_alone(clips):
    before = random.getstate(), np.random.get_state()[1].tolist()
    model = KerasClassifier(epochs=1, options=SMALL, random_state=0).fit(*clips)
    assert pickle.loads(pickle.dumps(model)).network_
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_classifier_is_bit_identical_for_the_same_random_state_instance(clips):
    model = KerasClassifier(epochs=1, options=SMALL)
    one, other = (clone(model).set_params(random_state=np.random.RandomState(3)).fit(*clips) for _ in range(2))
    assert bits(one) == bits(other)
    assert bits(model.fit(*clips)) != bits(clone(model).fit(*clips))


# Copies


@pytest.mark.parametrize(
    "copied", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_classifier_survives_a_copy(clips, fitted, copied):
    again = copied(fitted)
    assert bits(again) == bits(fitted)
    np.testing.assert_array_equal(again.predict_proba(clips[0]), fitted.predict_proba(clips[0]))
    assert again.network_ is not fitted.network_
    assert bits(again.fit(*clips)) == bits(fitted)


def test_pickle_holds_no_tensorflow(fitted, tmp_path):
    (tmp_path / "model").write_bytes(pickle.dumps(fitted))
    done = run(
        "import pickle, sys\n"
        f"model = pickle.load(open({str(tmp_path / 'model')!r}, 'rb'))\n"
        "print(model.n_iter_, {'tensorflow', 'keras'} & set(sys.modules))"
    )
    assert done.stdout == "3 set()\n"


def test_clone_is_unfitted_and_keeps_parameters(fitted):
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    assert not hasattr(again, "weights_")
    assert not hasattr(again, "network_")


# Early stopping


@pytest.fixture(scope="module")
def speakers():
    return np.arange(90) // 9


def spoken(monkeypatch):
    """Return the rows that training and validation visit, filled in while a classifier is fitted."""
    from emobench.models import keras_classifier

    visited = {}

    def watched(network, step, *args):
        visit = one_graph(network, step, *args)

        def note(rows):
            visited.setdefault(step.__name__, set()).update(rows.tolist())
            return visit(rows)

        return note

    monkeypatch.setattr(keras_classifier, "one_graph", watched)
    return visited


def test_early_stopping_listens_to_speakers_that_are_not_trained_on(clips, speakers, monkeypatch):
    visited = spoken(monkeypatch)
    KerasClassifier(epochs=2, options=SMALL, early_stopping=True, random_state=0).fit(*clips, groups=speakers)
    trained, listened = (set(speakers[list(visited[step])]) for step in ("train_step", "test_step"))
    assert len(listened) == 2
    assert trained == set(speakers) - listened
    assert visited["train_step"] | visited["test_step"] == set(range(90))


def test_early_stopping_keeps_the_best_epoch(clips, speakers):
    X, y = np.random.default_rng(0).normal(size=(90, 40)), clips[1]  # nothing to learn, so it gets worse soon
    model = KerasClassifier(options=SMALL, epochs=200, learning_rate=1e-2, early_stopping=True, random_state=0)
    model.fit(X, y, groups=speakers)
    best = 1 + int(np.argmin(model.validation_loss_curve_))
    assert model.n_iter_ == len(model.loss_curve_) == len(model.validation_loss_curve_) == best + PATIENCE
    assert bits(clone(model).set_params(epochs=best).fit(X, y, groups=speakers)) == bits(model)


def test_early_stopping_is_seeded(clips, speakers):
    model = KerasClassifier(epochs=3, options=SMALL, early_stopping=True, random_state=0)
    one, other = (clone(model).fit(*clips, groups=speakers) for _ in range(2))
    assert bits(one) == bits(other)


@pytest.mark.parametrize(
    ("groups", "message"), [(None, "needs the speaker of each sample"), (np.zeros(90), "the training data has 1")]
)
def test_early_stopping_without_speakers_is_an_error(clips, groups, message):
    with pytest.raises(ConfigError, match=message):
        KerasClassifier(early_stopping=True).fit(*clips, groups=groups)


def test_early_stopping_gets_speakers_through_a_pipeline(clips, speakers):
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        model = KerasClassifier(epochs=1, options=SMALL, early_stopping=True, random_state=0)
        pipeline = make_pipeline(StandardScaler(), model.set_fit_request(groups=True))
        pipeline.fit(*clips, groups=speakers)
    assert len(pipeline[-1].validation_loss_curve_) == 1


def test_without_early_stopping_groups_change_nothing(clips, fitted, speakers):
    assert bits(clone(fitted).fit(*clips, groups=speakers)) == bits(fitted)
    assert (fitted.n_iter_, len(fitted.loss_curve_), fitted.validation_loss_curve_) == (3, 3, [])


# What must not pass in silence


@pytest.mark.parametrize("learning_rate", [1e12, 1e30])
def test_divergence_is_an_error_that_names_the_epoch(clips, learning_rate):
    with pytest.raises(DivergedError, match=r"'reference' diverged: .* in epoch \d+ of 50 with .* Lower learning_rate"):
        KerasClassifier(options=SMALL, learning_rate=learning_rate, random_state=0).fit(*clips)


def test_overflow_in_prediction_is_an_error(clips, fitted):
    loud = copy.deepcopy(fitted)
    loud.weights_[2] *= 1e6
    X = clips[0][:3].copy()
    X[1] = 3e38
    with pytest.raises(DivergedError, match=r"'reference' gives NaN or infinity for row 1, whose largest .* 3e\+38"):
        loud.predict(X)


def test_single_class_is_an_error_that_names_it(clips):
    with pytest.raises(ValueError, match="only one class, 'sad'"):
        KerasClassifier().fit(clips[0], np.full(90, "sad"))


def fails(shape, n_classes):
    raise RuntimeError("no such layer")


def one_output(shape, n_classes):
    return dense(shape, 1)


def not_a_network(shape, n_classes):
    return None


def sequence(shape, n_classes):
    import keras

    return keras.Sequential([keras.Input(shape), keras.layers.Dense(n_classes, activation="softmax")])


def not_finite(shape, n_classes):
    import keras

    return keras.Sequential([dense(shape, n_classes), keras.layers.Rescaling(float("nan"))])


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")
@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (
            fails,
            {},
            r"cannot be built for an input of shape \(40, 1\) and 5 .*RuntimeError: no such layer\. ",
        ),
        (not_a_network, {}, "cannot be built .*NoneType"),
        (one_output, {}, r"output of shape \(2, 1\) for 2 samples and 5 classes.*End it with"),
        (sequence, {}, r"output of shape \(2, 40, 5\)"),
        (dense, {"activation": "linear"}, "not probabilities that sum to 1.*softmax"),
        (dense, {"activation": "sigmoid"}, "not probabilities that sum to 1"),
        (dense, {"activation": "softmux"}, "cannot be built .*softmux"),
        (not_finite, {}, "NaN or infinity"),
    ],
    ids=["raises", "none", "one output", "sequence", "linear", "sigmoid", "unknown activation", "nan"],
)
def test_network_that_gives_no_probabilities_is_a_config_error(clips, network, build, options, message):
    with pytest.raises(ConfigError, match=f"Network 'mine' .*{message}"):
        network(build, options=options).fit(*clips)


def test_shape_that_is_not_that_of_the_features_is_an_error(clips):
    with pytest.raises(ConfigError, match=r"shape \(10, 5\) stands for 50 features, but X has 40"):
        KerasClassifier("cnn-frames", shape=(10, 5)).fit(*clips)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 2.5),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "1e-3"),
        ("optimizer", "sgdd"),
        ("label_smoothing", 1.0),
        ("class_weight", "balance"),
        ("early_stopping", "yes"),
    ],
)
def test_parameter_out_of_range_is_an_error(clips, name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter of KerasClassifier must be .* Got {value!r}"):
        KerasClassifier(**{name: value}).fit(*clips)


def test_silence_is_kept_where_tensorflow_is_imported():
    done = run("from emobench.models.networks import import_tensorflow as i; print(i().zeros(1).shape, i() is i())")
    assert (done.stdout, done.stderr) == ("(1,) True\n", "")
    assert networks.import_tensorflow().config.threading.get_intra_op_parallelism_threads() == 1
