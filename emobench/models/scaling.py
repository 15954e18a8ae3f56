"""Scaling of frames over time."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from emobench.errors import ConfigError


class ChannelScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Standardise each channel of flattened frames by its mean and deviation over all samples and all frames.

    `sklearn.preprocessing.StandardScaler` would learn a mean for every frame and channel, 19,200 of them for 300 × 64,
    and so what is usually said at which moment.

    Parameters
    ----------
    n_channels : int, optional
        A row of X is (t, n_channels), flattened. By default each column is a channel.

    Attributes
    ----------
    mean_, scale_ : float32 arrays of shape (n_channels,)
        The scale of a constant channel is 1.
    """

    _parameter_constraints: ClassVar = {"n_channels": [Interval(Integral, 1, None, closed="left"), None]}

    def __init__(self, n_channels: int | None = None) -> None:
        self.n_channels = n_channels

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the mean and deviation of each channel.

        Raises
        ------
        ConfigError
            If the columns of X are not a multiple of `n_channels`.
        """
        self._validate_params()
        X = validate_data(self, X, dtype=np.float32)
        if self.n_channels is not None and X.shape[1] % self.n_channels:
            raise ConfigError(
                f"n_channels is {self.n_channels}, but X has {X.shape[1]} columns, which is no multiple of it. Give "
                "the channels of the features."
            )
        frames = X.reshape(-1, self.n_channels or X.shape[1])
        self.mean_ = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = frames.std(axis=0, dtype=np.float64).astype(np.float32)
        # As in StandardScaler, a deviation within the rounding of the mean is none.
        is_constant = scale <= 10 * np.finfo(np.float32).eps * np.abs(self.mean_)
        self.scale_ = np.where(is_constant, np.float32(1), scale)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return ``(X - mean_) / scale_`` of each channel, float32 of the shape of X."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        frames = X.reshape(len(X), -1, len(self.mean_))
        return ((frames - self.mean_) / self.scale_).reshape(X.shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
