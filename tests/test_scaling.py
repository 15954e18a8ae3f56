"""Frames are scaled by channel."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from emobench.errors import ConfigError
from emobench.models.scaling import ChannelScaler


@parametrize_with_checks([ChannelScaler()])
def test_channel_scaler_is_a_scikit_learn_transformer(estimator, check):
    check(estimator)


@pytest.fixture
def frames():
    """Twenty samples of 30 frames in 4 channels of different location and spread, flattened."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 30, 4)) * [1, 5, 0.1, 2] + [0, -40, 3, 1]
    return X.astype(np.float32).reshape(20, -1)


def test_channel_scaler_is_the_standard_scaler_of_all_frames(frames):
    scaled = ChannelScaler(4).fit_transform(frames)
    expected = StandardScaler().fit_transform(frames.reshape(-1, 4).astype(np.float64)).reshape(20, -1)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_channel_scaler_applies_what_it_has_learned(frames):
    scaler = ChannelScaler(4).fit(frames[:10])
    np.testing.assert_array_equal(scaler.transform(frames)[12:13], scaler.transform(frames[12:13]))


def test_channel_scaler_without_channels_scales_columns(frames):
    np.testing.assert_allclose(ChannelScaler().fit_transform(frames), StandardScaler().fit_transform(frames), atol=1e-4)


def test_channel_scaler_leaves_a_constant_channel_at_zero(frames):
    frames = frames.reshape(20, 30, 4).copy()
    frames[:, :, 2] = 0.1
    scaled = ChannelScaler(4).fit_transform(frames.reshape(20, -1)).reshape(20, 30, 4)
    np.testing.assert_allclose(scaled[:, :, 2], 0, atol=1e-6)


def test_channel_scaler_refuses_columns_that_are_no_frames(frames):
    with pytest.raises(ConfigError, match="n_channels is 7, but X has 120 columns"):
        ChannelScaler(7).fit(frames)
