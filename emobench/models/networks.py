"""Networks: functions that build a Keras model for an input shape and a number of classes.

A network is one row of `NETWORKS`. `emobench.models.keras_classifier` trains any of them; Keras is imported when a
network is built, never before.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from emobench.errors import ConfigError, did_you_mean
from emobench.models import Float, Int
from emobench.registry import Row, lookup, resolve

if TYPE_CHECKING:
    import keras

    from emobench.models import Choice


@dataclass(frozen=True)
class NetworkSpec(Row):
    """A row of `NETWORKS`.

    Attributes
    ----------
    build : str or callable
        ``"module:function"``, called as ``build(shape, n_classes, **options)``. It returns an uncompiled
        `keras.Sequential`, or any Keras model of one input and one output, that ends in a softmax over the classes.
        `shape` is (d, 1) for a vector of d features and (t, c) for t frames of c channels. Its further
        parameters are the network's options. The file of a plug-in may give the function itself.
    takes : tuple of str
        The features it is made for: ``"vector"``, ``"frames"`` or both.
    version : int
        Raised when the same options give other results.
    space : mapping of str to Float, Int or Choice
        Options that tuning searches; empty for a network that has nothing to tune.
    """

    kind: ClassVar[str] = "network"
    targets: ClassVar[tuple[str, ...]] = ("build",)

    name: str
    title: str
    build: str | Callable[..., keras.Model]
    takes: tuple[str, ...] = ("vector", "frames")
    version: int = 1
    space: Mapping[str, Float | Int | Choice] = field(default_factory=dict)

    def builder(self) -> Callable[..., keras.Model]:
        """Return the function that builds the network."""
        return resolve(self.build) if isinstance(self.build, str) else self.build

    def options(self) -> dict[str, Any]:
        """Return every option that has a default, with it. Keras is not imported."""
        return {one.name: one.default for one in self._parameters() if one.default is not one.empty}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise `ConfigError` for an option that the network does not have."""
        parameters = self._parameters()
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            return
        known = sorted(one.name for one in parameters)
        for name in options:
            if name not in known:
                raise ConfigError(
                    f"Unknown option {name!r} of network {self.name!r}.{did_you_mean(name, known)} "
                    f"Known options: {', '.join(known) or 'none'}."
                )

    def _parameters(self) -> list[inspect.Parameter]:
        """Return what its function takes besides the shape and the number of classes."""
        return list(inspect.signature(self.builder()).parameters.values())[2:]


NETWORKS: dict[str, NetworkSpec] = {
    row.name: row
    for row in (
        NetworkSpec(
            name="reference",
            title="Two convolutions along the feature vector",
            build="emobench.models.networks:reference",
            takes=("vector",),
            space={"dropout": Float(0.0, 0.5)},
        ),
        NetworkSpec(
            name="cnn-frames",
            title="Convolutions over time with batch normalisation, averaged over the recording",
            build="emobench.models.networks:cnn_frames",
            takes=("frames",),
            space={"filters": Int(32, 128, step=32), "input_dropout": Float(0.0, 0.5), "dropout": Float(0.0, 0.5)},
        ),
        NetworkSpec(
            name="crnn",
            title="Convolutions over time, then a bidirectional LSTM",
            build="emobench.models.networks:crnn",
            takes=("frames",),
            space={"units": Int(32, 96, step=32), "input_dropout": Float(0.0, 0.5), "dropout": Float(0.0, 0.5)},
        ),
    )
}


def get_network(name: str) -> NetworkSpec:
    """Return the row of `NETWORKS` called `name`, or raise `UnknownNameError`."""
    return lookup("network", NETWORKS, name)


def build_network(spec: NetworkSpec, shape: tuple[int, int], n_classes: int, options: Mapping[str, Any]) -> keras.Model:
    """Build a network and hold it to its contract: probabilities of the classes, for any batch.

    Parameters
    ----------
    shape : pair of int
        Of one input: features and 1, or frames and channels.

    Raises
    ------
    ConfigError
        If an option is unknown, the function fails, or the network's answer to two inputs of noise is not two rows of
        `n_classes` probabilities.
    """
    import numpy as np

    spec.check_options(options)
    import_tensorflow()
    noise = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    try:
        network = spec.builder()(shape, n_classes, **options)
        proba = np.asarray(network(noise, training=False))
    except Exception as error:  # a plug-in's function, or Keras, may refuse in any way
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise ConfigError(
            f"Network {spec.name!r} cannot be built for an input of shape {shape} and {n_classes} classes with "
            f"options {dict(options)}. {reason}. Change the options, the features, or the network's function."
        ) from error
    if proba.shape != (2, n_classes):
        problem = f"gives an output of shape {proba.shape} for 2 samples and {n_classes} classes"
    elif not np.isfinite(proba).all():
        problem = "gives NaN or infinity for finite features"
    elif proba.min() < 0 or np.abs(proba.sum(axis=1) - 1).max() > 1e-3:
        problem = f"gives {proba[0].tolist()}, which are not probabilities that sum to 1"
    else:
        return network
    raise ConfigError(
        f"Network {spec.name!r} {problem}. End it with keras.layers.Dense(n_classes, activation='softmax')."
    )


@lru_cache(maxsize=1)
def import_tensorflow() -> ModuleType:
    """Import TensorFlow, silent and with one thread; where the process used it before, its threads stay as they are."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for what its C++ says later
    with _without_stderr():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.zeros(1)  # the first operation greets, too
    return tf


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: TensorFlow's C++ writes to it before it has read any setting."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def reference(
    shape: tuple[int, int],
    n_classes: int,
    *,
    filters: int = 128,
    kernel_size: int = 5,
    pool_size: int = 8,
    dropout: float = 0.1,
) -> keras.Sequential:
    """Build the network that a vector of MFCC means is usually given to; one clip of 40 is [1, 40, 1] to it.

    Input (d, 1) → Conv1D(128, 5, same, relu) → Dropout 0.1 → MaxPooling1D(8) → Conv1D(128, 5, same, relu) →
    Dropout 0.1 → Flatten → Dense(k, softmax). Where there are fewer than `pool_size` features, all of them are pooled.
    """
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input(shape),
            layers.Conv1D(filters, kernel_size, padding="same", activation="relu"),
            layers.Dropout(dropout),
            layers.MaxPooling1D(min(pool_size, shape[0])),
            layers.Conv1D(filters, kernel_size, padding="same", activation="relu"),
            layers.Dropout(dropout),
            layers.Flatten(),
            layers.Dense(n_classes, activation="softmax"),
        ]
    )


def cnn_frames(
    shape: tuple[int, int],
    n_classes: int,
    *,
    filters: int = 64,
    kernel_size: int = 5,
    input_dropout: float = 0.3,
    dropout: float = 0.3,
) -> keras.Sequential:
    """Build a network that hears what happens within 0.7 s, anywhere, and averages over the recording.

    Half the time resolution, three convolutions of 64, 128 and 128 filters with batch normalisation and pooling over
    two, then the mean over time.
    """
    from keras import Sequential, layers

    network = Sequential(_entrance(shape, input_dropout))
    for width in (filters, 2 * filters, 2 * filters):
        _add_convolution(network, width, kernel_size, dropout)
    network.add(layers.GlobalAveragePooling1D())
    network.add(layers.Dense(n_classes, activation="softmax"))
    return network


def crnn(
    shape: tuple[int, int],
    n_classes: int,
    *,
    filters: int = 64,
    kernel_size: int = 5,
    units: int = 64,
    input_dropout: float = 0.3,
    dropout: float = 0.3,
) -> keras.Sequential:
    """Build a network whose convolutions hear a quarter of a second, and whose bidirectional LSTM hears their order."""
    from keras import Sequential, layers

    network = Sequential(_entrance(shape, input_dropout))
    for _ in range(2):
        _add_convolution(network, filters, kernel_size, dropout)
    network.add(layers.Bidirectional(layers.LSTM(units)))
    network.add(layers.Dropout(dropout))
    network.add(layers.Dense(n_classes, activation="softmax"))
    return network


def _entrance(shape: tuple[int, int], dropout: float) -> list[Any]:
    """Return the first layers: frames in pairs, and whole channels dropped, so that no band is relied on."""
    from keras import Input, layers

    return [Input(shape), layers.AveragePooling1D(min(2, shape[0])), layers.SpatialDropout1D(dropout)]


def _add_convolution(network: keras.Sequential, filters: int, kernel_size: int, dropout: float) -> None:
    from keras import layers

    network.add(layers.Conv1D(filters, kernel_size, padding="same", use_bias=False))
    # Keras' momentum of 0.99 wants more steps than the first epochs have; early stopping listens from the first on.
    network.add(layers.BatchNormalization(momentum=0.9))
    network.add(layers.ReLU())
    network.add(layers.MaxPooling1D(2, padding="same"))
    network.add(layers.Dropout(dropout))
