"""Any network of `NETWORKS` as a scikit-learn classifier.

Keras' own layers, loss and optimiser do all arithmetic, by its own `train_step`. What differs from `Model.fit` is that
one compiled graph goes over all batches of an epoch: for small networks `fit` spends most of its time between batches.
TensorFlow is imported when the first network is built.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from emobench.errors import ConfigError, EmobenchError
from emobench.models import Family
from emobench.models.networks import NetworkSpec, build_network, get_network, import_tensorflow

if TYPE_CHECKING:
    import keras

REFERENCE = "reference"
"""The network of the row `cnn`."""

PATIENCE = 8
"""Epochs without improvement after which early stopping ends the training."""

N_PARTS = 5
"""Parts of the speakers, of which early stopping listens to one."""

BATCH_SIZE = 256
"""Samples that a network answers at once, which bounds its memory."""

OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}


class DivergedError(EmobenchError, ValueError):
    """A network's numbers are no longer finite."""


class KerasClassifier(ClassifierMixin, BaseEstimator):
    """Classify feature vectors, or frames over time, with a network of Keras.

    Parameters
    ----------
    network : str
        Row of `NETWORKS`.
    options : mapping, optional
        Options of the network that differ from its defaults.
    shape : pair of int, optional
        Frames and channels, (t, c), that a row of X is the flattened form of. By default a row is a vector of d
        features, and the network's input is (d, 1).
    epochs, batch_size : int
    learning_rate : float
    optimizer : {"rmsprop", "adam", "adamw"}
        With Keras' defaults except for the learning rate.
    class_weight : "balanced" or mapping of label to float, optional
        Weights of the classes in the loss, as in scikit-learn.
    label_smoothing : float in [0, 1)
        Share of each target that is spread evenly over all classes.
    early_stopping : bool
        Hold out one of five parts of the speakers, stop when its loss has not improved for eight epochs, and keep the
        weights of the best epoch. `fit` then needs `groups`.
    random_state : int, RandomState or None
        Seeds initial weights, shuffling, dropout and the held-out speakers. The same integer and data give the same
        weights to the bit, in any process on one type of CPU, if TensorFlow has one thread. It has, unless the
        process used it before.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        Labels of the training data, sorted; the order of the columns of `predict_proba`.
    network_ : keras.Model
        The trained network.
    weights_ : list of arrays
        Its weights, in the order of ``network_.get_weights()``. They and the parameters are all that a pickle holds.
    n_iter_ : int
        Epochs trained.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_loss_curve_ : list of float
        That of the held-out speakers; empty without early stopping.
    """

    _parameter_constraints: ClassVar = {
        "network": [str],
        "options": [dict, None],
        "shape": ["array-like", None],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        network: str = REFERENCE,
        *,
        options: dict[str, Any] | None = None,
        shape: Any = None,
        epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        optimizer: str = "rmsprop",
        class_weight: str | dict[Any, float] | None = None,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.network = network
        self.options = options
        self.shape = shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Train the network from scratch.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Scaled features.
        y : array-like of shape (n_samples,)
            Labels of any type, strings included.
        groups : array-like of shape (n_samples,), optional
            Speaker of each sample; used by early stopping.

        Raises
        ------
        ConfigError
            If the network cannot be built for these features and classes, does not give probabilities, or early
            stopping has no speakers to hold out.
        DivergedError
            If the loss of an epoch, or a weight, is not finite.
        """
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y holds only one class, {classes.tolist()[0]!r}, for {type(self).__name__}. Add recordings of "
                "another class or use fewer folds."
            )
        rng = check_random_state(self.random_state)
        held_out = self._held_out(groups, len(X), rng)
        with _seeded(rng.randint(2**31 - 1)):
            network = self._build(len(classes))
        targets = np.eye(len(classes), dtype=np.float32)[codes] if self.label_smoothing else codes
        data = [X.reshape(-1, *self._input_shape()), targets]
        if self.class_weight is not None:
            data.append(compute_sample_weight(self.class_weight, y).astype(np.float32))
        self._train(network, data, held_out, rng)
        self.classes_ = classes
        self.weights_ = network.get_weights()
        self._network = network
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, of shape (n_samples, n_classes).

        Raises
        ------
        DivergedError
            If a probability is not finite.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        inputs = X.reshape(-1, *self._input_shape())
        # Called as it is, the network answers sooner than `predict` has made its graph.
        batches = range(0, len(X), BATCH_SIZE)
        proba = np.concatenate(
            [np.asarray(self.network_(inputs[start : start + BATCH_SIZE], training=False)) for start in batches]
        )
        if not np.isfinite(proba).all():
            row = int(np.flatnonzero(~np.isfinite(proba).all(axis=1))[0])
            raise DivergedError(
                f"Network {self.network!r} gives NaN or infinity for row {row}, whose largest feature is "
                f"{np.abs(X[row]).max():.3g}. Scale the features as in training."
            )
        return proba

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample."""
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]

    @property
    def network_(self) -> keras.Model:
        """The trained network; in a copy of the estimator it is built again from the weights."""
        check_is_fitted(self)
        if self._network is None:
            with _seeded(0):
                self._network = self._build(len(self.classes_))
            self._network.set_weights(self.weights_)
        return self._network

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def __getstate__(self) -> dict[str, Any]:
        """Leave TensorFlow's objects out: the weights are enough."""
        state = super().__getstate__()
        return state | {"_network": None} if "_network" in state else state

    def _input_shape(self) -> tuple[int, int]:
        if self.shape is None:
            return self.n_features_in_, 1
        if math.prod(self.shape) != self.n_features_in_:
            raise ConfigError(
                f"shape {tuple(self.shape)} stands for {math.prod(self.shape)} features, but X has "
                f"{self.n_features_in_}. Give the frames and channels of the features."
            )
        return tuple(self.shape)

    def _held_out(self, groups: Any, n_samples: int, rng: np.random.RandomState) -> np.ndarray:
        """Return which samples early stopping listens to, a bool array of shape (n_samples,)."""
        if not self.early_stopping:
            return np.zeros(n_samples, dtype=bool)
        if groups is None:
            raise ConfigError(
                "early_stopping needs the speaker of each sample, or it would listen to speakers that the network "
                "trains on. Pass groups to fit, or set early_stopping to false."
            )
        speakers = np.unique(groups)
        if len(speakers) < 2:
            raise ConfigError(
                f"early_stopping holds out speakers, but the training data has {len(speakers)}. Set it to false, or "
                "add recordings of other speakers."
            )
        return np.isin(groups, rng.permutation(speakers)[: max(1, len(speakers) // N_PARTS)])

    def _build(self, n_classes: int) -> keras.Model:
        network = build_network(get_network(self.network), self._input_shape(), n_classes, self.options or {})
        import keras

        loss = (
            keras.losses.CategoricalCrossentropy(label_smoothing=self.label_smoothing)
            if self.label_smoothing
            else keras.losses.SparseCategoricalCrossentropy()
        )
        optimizer = getattr(keras.optimizers, OPTIMIZERS[self.optimizer])(self.learning_rate)
        network.compile(optimizer=optimizer, loss=loss, jit_compile=False)  # XLA is 40 times slower here
        return network

    def _train(
        self, network: keras.Model, data: Sequence[np.ndarray], held_out: np.ndarray, rng: np.random.RandomState
    ) -> None:
        """Train in place, and keep the curves of the losses."""
        network.optimizer.build(network.trainable_variables)
        heard, unheard = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        train = one_graph(network, network.train_step, data, self.batch_size)
        validate = one_graph(network, network.test_step, data, BATCH_SIZE) if len(unheard) else None
        self.loss_curve_, self.validation_loss_curve_ = [], []
        best_weights = None
        for epoch in range(1, self.epochs + 1):
            self.loss_curve_.append(train(rng.permutation(heard)))
            if not math.isfinite(self.loss_curve_[-1]):
                raise self._diverged(f"a loss of {self.loss_curve_[-1]}", epoch)
            if validate is not None:
                self.validation_loss_curve_.append(validate(unheard))
                best_epoch = 1 + int(np.argmin(self.validation_loss_curve_))
                if epoch == best_epoch:
                    best_weights = network.get_weights()
                elif epoch - best_epoch >= PATIENCE:
                    break
        self.n_iter_ = epoch
        if best_weights is not None:
            network.set_weights(best_weights)
        if not all(np.isfinite(weight).all() for weight in network.get_weights()):
            raise self._diverged("weights that are not finite", epoch)

    def _diverged(self, what: str, epoch: int) -> DivergedError:
        return DivergedError(
            f"Network {self.network!r} diverged: {what} in epoch {epoch} of {self.epochs} with "
            f"learning_rate={self.learning_rate:g}. Lower learning_rate, or scale the features."
        )


def one_graph(
    network: keras.Model, step: Callable[[tuple], Any], data: Sequence[np.ndarray], batch_size: int
) -> Callable[[np.ndarray], float]:
    """Compile a step of Keras' trainer and the loop over its batches into one graph.

    Parameters
    ----------
    step : callable
        ``network.train_step`` or ``network.test_step``.
    data : sequence of arrays
        Inputs, targets and, where there are some, weights, one entry a sample.

    Returns
    -------
    run : callable
        Takes the rows to visit in their order, the last and smaller batch included; returns their mean loss.
    """
    tf = import_tensorflow()
    tensors = [tf.constant(part) for part in data]

    @tf.function(autograph=False)
    def visit(order: Any, *tensors: Any) -> Any:
        def take_step(start: Any) -> list[Any]:
            rows = order[start : start + batch_size]
            step(tuple(tf.gather(tensor, rows) for tensor in tensors))
            return [start + batch_size]

        network.reset_metrics()
        tf.while_loop(lambda start: start < tf.size(order), take_step, [0], parallel_iterations=1)
        return network.get_metrics_result()["loss"]

    # TensorFlow never frees a graph that holds gradients; so the data go in with each call and not with the graph.
    graph = visit.get_concrete_function(tf.TensorSpec([None], tf.int64), *tensors)
    return lambda order: float(graph(tf.constant(order, tf.int64), *tensors))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that Keras and a network's function draw their seeds from; leave them as they were."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _check(settings: Mapping[str, Any]) -> None:
    get_network(settings.get("network", REFERENCE)).check_options(settings["options"] or {})


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    network = get_network(settings.get("network", REFERENCE))
    return {"network": network.name, "network_version": network.version, **_origin(network)}


def _origin(network: NetworkSpec) -> dict[str, str]:
    return {"network_plugin": network.plugin} if network.plugin else {}


def _space(settings: Mapping[str, Any]) -> dict[str, Any]:
    network = get_network(settings.get("network", REFERENCE))
    return {f"options.{name}": domain for name, domain in network.space.items()}


def _takes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return get_network(settings.get("network", REFERENCE)).takes


FAMILY = Family(check=_check, identity=_identity, space=_space, takes=_takes)
