"""The reference convolutional network, as a scikit-learn classifier.

The network is a `keras.Sequential`, and `CNNClassifier.network_` is the genuine article with the trained weights.
Training and prediction are the same arithmetic written out in NumPy, because that is several times faster for a
network of this size: Keras spends most of a step around the arithmetic, and TensorFlow takes three seconds and
0.7 GB to import. TensorFlow is therefore needed for `network_` only. The tests hold the two to each other: the
forward pass, the gradient, the optimiser and the score that comes out.

The arithmetic
--------------
For n clips of d features, F filters of k taps, pooling width w and L = d // w pooled positions:

1. *First convolution*, one input channel: every position's k neighbours are a row, and the convolution is
   rows @ kernel. The bias is the weight of one more neighbour that is always 1.
2. *Dropout, pooling, ReLU.* Rows are kept in w slabs, the first of every window, the second of every window and so
   on, so the maximum over a window is the maximum of whole slabs. ReLU and the scale of dropout are monotonic and
   commute with the maximum: they are applied after it, to w times fewer numbers.
3. *Second convolution.* Arrays are position-major, (position, clip, channel) with the first two axes merged to rows.
   A tap shifts positions, so it is a slice of consecutive rows times that tap's (F, F) matrix. Nothing is padded and
   nothing is copied; a quarter of the products of the textbook's matrix of patches would be with zeros.
4. *Dense and softmax* on the features in Keras' order (position, channel).

The gradient walks back the same way. RMSprop is that of Keras 3, ``v ← ρv + (1-ρ)g²; w ← w - ηg / √(v + ε)``, on one
flat vector that holds all weights. It keeps ``(v + ε) / (1-ρ)`` in place of v, which obeys the same recursion, costs
one pass less and never decays into denormal numbers, which are a hundred times slower to multiply.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterator, Mapping

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from emobench.errors import ConfigError, EmobenchError

RHO = 0.9
EPSILON = 1e-7
MAX_ACTIVATIONS = 2**21
"""Activations of one slab that prediction holds at a time: 8 MB."""


class DivergedError(EmobenchError, FloatingPointError):
    """The network's numbers are no longer finite."""


class CNNClassifier(ClassifierMixin, BaseEstimator):
    """Classify feature vectors with a small one-dimensional convolutional network.

    Input (d, 1) → Conv1D(filters, kernel_size, same, relu) → Dropout → MaxPooling1D(pool_size) →
    Conv1D(filters, kernel_size, same, relu) → Dropout → Flatten → Dense(n_classes, softmax), trained by RMSprop on
    the cross-entropy, reshuffled every epoch, the last and smaller batch included. Initial weights are Keras'
    defaults (Glorot uniform kernels, zero biases).

    Parameters
    ----------
    epochs : int, default=50
    batch_size : int, default=32
    learning_rate : float, default=1e-3
    filters : int, default=128
        Channels of both convolutions.
    kernel_size : int, default=5
    dropout : float in [0, 1), default=0.1
        Share of activations that are dropped after each convolution, to the nearest 1/65536.
    pool_size : int, default=8
        Width of the pooling. It is never wider than the input: fewer features than that are one window.
    random_state : int, RandomState or None, default=None
        Seeds initial weights, shuffling and dropout. The same integer and data give the same weights to the bit, in
        any process on one type of CPU. No global seed is read (unless None) or changed.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        Labels of the training data, sorted; the order of the columns of `predict_proba`.
    n_features_in_ : int
    weights_ : dict of str to float32 array
        Kernels and biases in the order of `network_.get_weights()`.
    network_ : keras.Sequential
        The network with these weights, built when first asked for. It is a copy: training it further changes no
        prediction of this estimator.

    Raises
    ------
    ConfigError
        From `fit`, if a parameter is out of its range. It is a ValueError.
    ValueError
        From `fit`, if y holds fewer than two classes.
    DivergedError
        From `fit`, if the loss or a weight is not finite; from prediction, if the network's output is not.
    """

    def __init__(
        self,
        *,
        epochs=50,
        batch_size=32,
        learning_rate=1e-3,
        filters=128,
        kernel_size=5,
        dropout=0.1,
        pool_size=8,
        random_state=None,
    ):
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.filters = filters
        self.kernel_size = kernel_size
        self.dropout = dropout
        self.pool_size = pool_size
        self.random_state = random_state

    def fit(self, X, y):
        """Train the network from scratch.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_features)
            Scaled features. The channel axis is added here.
        y : array-like of shape (n_clips,)
            Labels of any type, strings included.
        """
        check_parameters(self)
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        check_several_classes(classes, type(self).__name__)
        shapes = weight_shapes(self, self.n_features_in_, len(classes))
        # The order of additions, and so the last bit of every weight, depends on the number of threads.
        with threadpool_limits(1, user_api="blas"):
            self.weights_ = train(X, codes, shapes, self)
        self.classes_ = classes
        self._network = None
        return self

    def predict_proba(self, X):
        """Return the probability of each class, of shape (n_clips, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return probabilities(self.weights_, X, self.pool_size)

    def predict(self, X):
        """Return the most probable label of each clip."""
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]

    @property
    def network_(self):
        """The trained network as a compiled `keras.Sequential`."""
        check_is_fitted(self)
        if getattr(self, "_network", None) is None:
            self._network = build_network(self, self.n_features_in_, len(self.classes_))
            self._network.set_weights(list(self.weights_.values()))
        return self._network

    def __getstate__(self):
        """Leave the Keras model out: `network_` builds it again from the weights."""
        return {name: value for name, value in super().__getstate__().items() if name != "_network"}


def build_network(params: CNNClassifier, n_features: int, n_classes: int):
    """Build the untrained, compiled `keras.Sequential`, leaving every global seed as it was."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or TensorFlow greets on stderr
    try:
        import keras
    except ImportError as error:
        raise ConfigError(
            f"network_ must have Keras and TensorFlow. They are not installed here ({error}). Install tensorflow; "
            "training and prediction need neither."
        ) from error

    def conv(name):
        # An explicit seed, as Keras would otherwise draw one from Python's global generator.
        return keras.layers.Conv1D(
            params.filters,
            params.kernel_size,
            padding="same",
            activation="relu",
            kernel_initializer=keras.initializers.GlorotUniform(seed=0),
            name=name,
        )

    network = keras.Sequential(
        [
            keras.Input((n_features, 1)),
            conv("conv1"),
            keras.layers.Dropout(params.dropout, seed=1, name="dropout1"),
            keras.layers.MaxPooling1D(min(params.pool_size, n_features), name="pool"),
            conv("conv2"),
            keras.layers.Dropout(params.dropout, seed=2, name="dropout2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(
                n_classes,
                activation="softmax",
                kernel_initializer=keras.initializers.GlorotUniform(seed=0),
                name="dense",
            ),
        ],
        name="cnn",
    )
    network.compile(
        optimizer=keras.optimizers.RMSprop(params.learning_rate, rho=RHO, epsilon=EPSILON),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return network


# Checks


def is_count(value: object) -> bool:
    """Whether a value is an integer of at least 1, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def check_parameters(params: CNNClassifier) -> None:
    """Raise a ConfigError for the first parameter that is out of range."""
    for name in ("epochs", "batch_size", "filters", "kernel_size", "pool_size"):
        value = getattr(params, name)
        if not is_count(value):
            raise ConfigError(f"{name} of the CNN must be an integer of at least 1. Got {value!r}. Correct it.")
    for name, is_valid, interval in (
        ("learning_rate", lambda value: 0 < value < math.inf, "above 0 and finite"),
        ("dropout", lambda value: 0 <= value < 1, "in [0, 1)"),
    ):
        value = getattr(params, name)
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not is_valid(value):
            raise ConfigError(f"{name} of the CNN must be a number {interval}. Got {value!r}. Correct it.")


def check_several_classes(classes: np.ndarray, model: str) -> None:
    """Raise scikit-learn's customary ValueError if there is nothing to tell apart."""
    if len(classes) < 2:
        raise ValueError(
            f"y must hold at least two classes for {model}. Got only one class, {classes.tolist()[0]!r}. "
            "Add recordings of another class or use fewer folds."
        )


# Weights


def weight_shapes(params: CNNClassifier, n_features: int, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of weights, in Keras' order and layout."""
    n_positions = n_features // min(params.pool_size, n_features)
    filters = int(params.filters)
    return {
        "conv1_kernel": (params.kernel_size, 1, filters),
        "conv1_bias": (filters,),
        "conv2_kernel": (params.kernel_size, filters, filters),
        "conv2_bias": (filters,),
        "dense_kernel": (n_positions * filters, n_classes),
        "dense_bias": (n_classes,),
    }


def views(flat: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Cut a flat vector into named arrays that share its memory, one behind the other."""
    cuts = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), np.split(flat, cuts), strict=True)}


def draw_weights(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> np.ndarray:
    """Draw initial weights as one flat vector: Glorot uniform kernels (Glorot & Bengio 2010), zero biases."""
    flat = np.zeros(sum(math.prod(shape) for shape in shapes.values()), dtype=np.float32)
    for weight in views(flat, shapes).values():
        if weight.ndim > 1:
            *taps, n_in, n_out = weight.shape
            limit = math.sqrt(6 / (math.prod(taps) * (n_in + n_out)))
            weight[:] = rng.uniform(-limit, limit, weight.shape)
    return flat


# Forward and backward


def windows(X: np.ndarray, kernel_size: int, pool_size: int) -> np.ndarray:
    """Return the neighbourhood of each position, zeros beyond the ends, of shape (pool, position, clip, tap).

    It is a view on one padded copy. Positions behind the last full pooling window are left out, as they are never
    heard. An even kernel reaches one further to the right, as TensorFlow's does.
    """
    n_clips, n_features = X.shape
    pool = min(pool_size, n_features)
    n_positions = n_features // pool
    left = (kernel_size - 1) // 2
    padded = np.pad(X, ((0, 0), (left, kernel_size - 1 - left)))
    rows = np.lib.stride_tricks.sliding_window_view(padded, kernel_size, axis=1)
    rows = rows[:, : n_positions * pool].reshape(n_clips, n_positions, pool, kernel_size)
    return rows.transpose(2, 1, 0, 3)


def with_ones(rows: np.ndarray) -> np.ndarray:
    """Append a neighbour that is always 1, and merge positions and clips to rows: (pool, row, tap + 1)."""
    pool, n_positions, n_clips, kernel_size = rows.shape
    patches = np.ones((pool, n_positions, n_clips, kernel_size + 1), dtype=rows.dtype)
    patches[..., :kernel_size] = rows
    return patches.reshape(pool, n_positions * n_clips, kernel_size + 1)


def shifts(kernel_size: int, n_positions: int, n_clips: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield (tap, rows it writes, rows it reads) of a position-major convolution, the tap that reads all rows first.

    A tap that only reaches beyond the ends of a short input gets no rows; its gradient is then an empty sum, zero.
    """
    centre = (kernel_size - 1) // 2
    for tap in sorted(range(kernel_size), key=lambda tap: abs(tap - centre)):
        offset = tap - centre
        n_rows = max(0, n_positions - abs(offset)) * n_clips
        write, read = max(0, -offset) * n_clips, max(0, offset) * n_clips
        yield tap, slice(write, write + n_rows), slice(read, read + n_rows)


def convolve(hidden: np.ndarray, kernel: np.ndarray, n_clips: int) -> np.ndarray:
    """Convolve position-major rows (position x clip, channel) with a kernel (tap, channel, filter)."""
    taps = shifts(len(kernel), len(hidden) // n_clips, n_clips)
    centre, _, _ = next(taps)
    result = hidden @ kernel[centre]
    for tap, write, read in taps:
        result[write] += hidden[read] @ kernel[tap]
    return result


def convolve_backward(
    hidden: np.ndarray, kernel: np.ndarray, error: np.ndarray, n_clips: int, gradient: np.ndarray
) -> np.ndarray:
    """Return the gradient of `convolve` by its input, and write that by its kernel to `gradient`."""
    gradient_hidden = np.zeros_like(hidden)
    for tap, write, read in shifts(len(kernel), len(hidden) // n_clips, n_clips):
        np.matmul(hidden[read].T, error[write], out=gradient[tap])
        gradient_hidden[read] += error[write] @ kernel[tap].T
    return gradient_hidden


def convolve_and_pool(
    patches: np.ndarray, kernel: np.ndarray, kept: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest activation of each pooling window, and which position had it (the first, if several)."""
    peak = patches[0] @ kernel
    if kept is not None:
        peak *= kept[0]
    winner = np.zeros(peak.shape, dtype=np.uint8 if len(patches) <= 256 else np.intp)
    for position in range(1, len(patches)):
        slab = patches[position] @ kernel
        if kept is not None:
            slab *= kept[position]
        # Positions rise, so the last that beat the peak is the highest: no branch, which would be a coin's toss.
        np.maximum(winner, (slab > peak) * winner.dtype.type(position), out=winner)
        np.maximum(peak, slab, out=peak)
    return peak, winner


def to_features(hidden: np.ndarray, n_clips: int) -> np.ndarray:
    """Turn position-major rows into one row a clip, (clip, position x channel)."""
    return hidden.reshape(-1, n_clips, hidden.shape[1]).transpose(1, 0, 2).reshape(n_clips, -1)


def to_rows(features: np.ndarray, filters: int) -> np.ndarray:
    """Undo `to_features`."""
    n_clips = len(features)
    return features.reshape(n_clips, -1, filters).transpose(1, 0, 2).reshape(-1, filters)


def loss_and_gradient(
    weights: Mapping[str, np.ndarray],
    patches: np.ndarray,
    codes: np.ndarray,
    gradients: Mapping[str, np.ndarray],
    *,
    kept: tuple[np.ndarray, np.ndarray] | None = None,
    dropout: float = 0.0,
) -> float:
    """Return the mean cross-entropy of a batch and write its gradient by every weight to `gradients`.

    Parameters
    ----------
    weights, gradients : dict of str to array
        Of the shapes of `weight_shapes`.
    patches : array of shape (pool, n_positions x n_clips, kernel_size + 1)
        From `with_ones`.
    codes : int array of shape (n_clips,)
    kept : pair of bool arrays or None
        Activations of the two convolutions that dropout spares, from `draw_kept`.
    dropout : float
        The rate behind `kept`: what is kept is scaled by 1 / (1 - dropout).
    """
    n_clips = len(codes)
    kept1, kept2 = kept if kept is not None else (None, None)
    scale = weights["conv1_bias"].dtype.type(1 / (1 - dropout))

    kernel1 = np.vstack([weights["conv1_kernel"][:, 0], weights["conv1_bias"]])
    peak, winner = convolve_and_pool(patches, kernel1, kept1)
    hidden1 = np.maximum(peak, 0, out=peak)
    hidden1 *= scale
    hidden2 = convolve(hidden1, weights["conv2_kernel"], n_clips)
    hidden2 += weights["conv2_bias"]
    np.maximum(hidden2, 0, out=hidden2)
    if kept2 is not None:
        hidden2 *= kept2
        hidden2 *= scale
    features = to_features(hidden2, n_clips)
    logits = features @ weights["dense_kernel"]
    logits += weights["dense_bias"]
    loss, error = cross_entropy(logits, codes)

    np.matmul(features.T, error, out=gradients["dense_kernel"])
    error.sum(axis=0, out=gradients["dense_bias"])
    # A positive activation was neither dropped nor cut off by ReLU.
    error2 = to_rows(error @ weights["dense_kernel"].T, hidden2.shape[1])
    error2 *= hidden2 > 0
    error2 *= scale
    error2.sum(axis=0, out=gradients["conv2_bias"])
    error1 = convolve_backward(hidden1, weights["conv2_kernel"], error2, n_clips, gradients["conv2_kernel"])
    error1 *= hidden1 > 0
    error1 *= scale
    gradient1 = sum(rows.T @ (error1 * (winner == position)) for position, rows in enumerate(patches))
    gradients["conv1_kernel"][:, 0] = gradient1[:-1]
    gradients["conv1_bias"][:] = gradient1[-1]
    return loss


def cross_entropy(logits: np.ndarray, codes: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean cross-entropy after softmax, and its gradient by the logits."""
    rows = np.arange(len(codes))
    logits = logits - logits.max(axis=1, keepdims=True)
    error = np.exp(logits)
    total = error.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - logits[rows, codes]))
    error /= total
    error[rows, codes] -= 1
    error /= len(codes)
    return loss, error


def probabilities(weights: Mapping[str, np.ndarray], X: np.ndarray, pool_size: int) -> np.ndarray:
    """Return the network's answer without dropout, of shape (n_clips, n_classes).

    Clips go through in pieces, so that memory stays bounded however many there are.
    """
    step = max(1, MAX_ACTIVATIONS // len(weights["dense_kernel"]))
    pieces = [logits_of(weights, X[start : start + step], pool_size) for start in range(0, len(X), step)]
    logits = np.concatenate(pieces)
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise DivergedError(
            f"The network's output must be finite. Got NaN or infinity for row {row}, whose largest feature is "
            f"{np.abs(X[row]).max():.3g}. Scale the features as in training."
        )
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def logits_of(weights: Mapping[str, np.ndarray], X: np.ndarray, pool_size: int) -> np.ndarray:
    """Return what goes into the softmax for one piece of clips."""
    n_clips = len(X)
    kernel = weights["conv1_kernel"][:, 0]
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result
        peak = None
        for rows in windows(X, len(kernel), pool_size):
            slab = rows.reshape(-1, len(kernel)) @ kernel
            peak = slab if peak is None else np.maximum(peak, slab, out=peak)
        peak += weights["conv1_bias"]
        np.maximum(peak, 0, out=peak)
        hidden = convolve(peak, weights["conv2_kernel"], n_clips)
        hidden += weights["conv2_bias"]
        np.maximum(hidden, 0, out=hidden)
        return to_features(hidden, n_clips) @ weights["dense_kernel"] + weights["dense_bias"]


# Training


def draw_kept(
    rng: np.random.Generator, dropout: float, pool: int, n_rows: int, filters: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw which activations of the two convolutions survive dropout, sixteen random bits for each.

    The bools have the shapes (pool, row, filter) and (row, filter).
    """
    if not dropout:
        return None
    n_values = (pool + 1) * n_rows * filters
    bits = rng.bit_generator.random_raw(-(-n_values // 4)).view(np.uint16)[:n_values]
    kept = (bits >= round(dropout * 2**16)).reshape(pool + 1, n_rows, filters)
    return kept[:pool], kept[pool]


def rmsprop_step(
    weights: np.ndarray, gradient: np.ndarray, squares: np.ndarray, learning_rate: float, scratch: np.ndarray
) -> None:
    """Take one step of RMSprop in place. `gradient` and `scratch` are used up.

    `squares` is (v + ε) / (1 - ρ) of the module's docstring, so it begins as `initial_squares`.
    """
    np.multiply(gradient, gradient, out=scratch)
    squares *= RHO
    squares += scratch
    squares += EPSILON
    np.sqrt(squares, out=scratch)
    gradient *= learning_rate / math.sqrt(1 - RHO)
    gradient /= scratch
    weights -= gradient


def initial_squares(weights: np.ndarray) -> np.ndarray:
    """Return the state of `rmsprop_step` before the first step: v = 0."""
    return np.full_like(weights, EPSILON / (1 - RHO))


def generators(random_state) -> list[np.random.Generator]:
    """Return independent generators for initial weights, shuffling and dropout."""
    entropy = check_random_state(random_state).randint(0, 2**31 - 1, size=4)
    return [np.random.Generator(np.random.SFC64(seed)) for seed in np.random.SeedSequence(entropy.tolist()).spawn(3)]


def train(
    X: np.ndarray, codes: np.ndarray, shapes: Mapping[str, tuple[int, ...]], params: CNNClassifier
) -> dict[str, np.ndarray]:
    """Train a network and return its weights.

    Raises
    ------
    DivergedError
        As soon as a loss is not finite.
    """
    for_weights, for_order, for_dropout = generators(params.random_state)
    flat = draw_weights(shapes, for_weights)
    flat_gradient, squares, scratch = np.empty_like(flat), initial_squares(flat), np.empty_like(flat)
    weights, gradients = views(flat, shapes), views(flat_gradient, shapes)
    rows = windows(X, params.kernel_size, params.pool_size)
    pool, n_positions, n_clips, _ = rows.shape
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for epoch in range(params.epochs):
            order = for_order.permutation(n_clips)
            for start in range(0, n_clips, params.batch_size):
                batch = order[start : start + params.batch_size]
                kept = draw_kept(for_dropout, params.dropout, pool, n_positions * len(batch), params.filters)
                loss = loss_and_gradient(
                    weights, with_ones(rows[:, :, batch]), codes[batch], gradients, kept=kept, dropout=params.dropout
                )
                if not math.isfinite(loss):
                    raise diverged(f"a loss of {loss}", epoch, params)
                rmsprop_step(flat, flat_gradient, squares, float(params.learning_rate), scratch)
    if not np.isfinite(flat).all():
        raise diverged("weights that are not", epoch, params)
    return {name: weight.copy() for name, weight in weights.items()}


def diverged(what: str, epoch: int, params: CNNClassifier) -> DivergedError:
    """Return the error for a training that went out of bounds."""
    return DivergedError(
        f"Loss and weights must stay finite in training. Got {what} in epoch {epoch + 1} of {params.epochs} with "
        f"learning_rate={params.learning_rate:g}. Lower learning_rate, or scale the features."
    )
