"""A shard is named by its content, is read as it was written, and says what it is."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from emobench.features import shards
from emobench.features.shards import (
    HASH,
    DamagedShardError,
    Shard,
    concatenate,
    describe_shard,
    encode_shard,
    name_of,
    read_shard,
    to_hashes,
    to_texts,
)

IDENTITY = {"spec": {"name": "mfcc40"}, "python": "3.11"}


def make_shard(n_clips, *, seed=0, n_features=5):
    rng = np.random.default_rng(seed)
    clips = np.unique(np.frombuffer(rng.bytes(32 * n_clips), HASH))
    return Shard(
        clips=clips,
        audio=np.frombuffer(rng.bytes(32 * n_clips), HASH),
        duration_s=rng.uniform(0.1, 5, n_clips),
        is_silent=rng.random(n_clips) < 0.5,
        remarks=np.array(["", "clipped", "\u00e4\n\U0001f600"], object)[np.arange(n_clips) % 3],
        X=rng.normal(size=(n_clips, n_features)).astype(np.float32),
    )


def write(folder, shard):
    content = encode_shard(shard, IDENTITY)
    path = folder / name_of(content)
    path.write_bytes(content)
    return path


def assert_equal(one, other):
    for mine, its in zip(one.columns, other.columns, strict=True):
        assert (mine.dtype, mine.shape) == (its.dtype, its.shape)
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("n_clips", [1, 100])
def test_shard_is_read_as_it_was_written(n_clips, tmp_path):
    shard = make_shard(n_clips)
    assert_equal(read_shard(write(tmp_path, shard)), shard)


def test_same_rows_have_the_same_name_and_other_rows_another(tmp_path):
    assert write(tmp_path, make_shard(9)) == write(tmp_path, make_shard(9))
    assert write(tmp_path, make_shard(9)) != write(tmp_path, make_shard(9, seed=1))


def test_shard_says_what_it_is(tmp_path):
    assert describe_shard(write(tmp_path, make_shard(9))) == (IDENTITY, 9)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 99], ids=["empty", "magic", "text"])
def test_what_is_no_shard_says_nothing_and_is_damaged_even_under_its_own_name(content, tmp_path):
    path = tmp_path / name_of(content)
    path.write_bytes(content)
    assert describe_shard(path) is None
    with pytest.raises(DamagedShardError):
        read_shard(path)


def test_parquet_of_another_layout_is_damaged(tmp_path):
    import pandas as pd

    pd.DataFrame({"clip": ["a" * 64], "vector": [[1.0, 2.0]]}).to_parquet(tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    path = tmp_path / name_of(content)
    path.write_bytes(content)
    assert describe_shard(path) is None
    with pytest.raises(DamagedShardError):
        read_shard(path)


def test_shard_that_is_gone_is_none(tmp_path):
    assert read_shard(tmp_path / f"{'0' * 64}.parquet") is None


def test_concatenate_sorts_and_keeps_each_clip_once():
    one, other = make_shard(40, seed=1), make_shard(30, seed=2)
    both = concatenate([one, other, one.take(slice(5))])
    assert len(both) == 70
    assert (both.clips[1:] > both.clips[:-1]).all()
    for part in (one, other):
        assert_equal(both.take(np.searchsorted(both.clips, part.clips)), part)


@hypothesis.given(st.lists(st.binary(min_size=32, max_size=32)))
@hypothesis.example([bytes(32), b"a" + bytes(31), b"a" + bytes(30) + b"b"])
def test_hashes_survive_both_ways_with_zeros_at_the_end(digests):
    texts = [digest.hex() for digest in digests]
    assert to_texts(to_hashes(texts)) == tuple(texts)


def make_windows(counts, *, seed=0):
    """Return a shard of clips with so many rows each."""
    return make_shard(len(counts), seed=seed).take(np.repeat(np.arange(len(counts)), counts))


def test_shard_of_clips_with_several_rows_is_read_as_it_was_written(tmp_path):
    shard = make_windows([1, 3, 2])
    shard.X[:] = np.arange(30).reshape(6, 5)
    path = write(tmp_path, shard)
    assert_equal(read_shard(path), shard)
    assert describe_shard(path) == (IDENTITY, 3)
    assert shard.starts.tolist() == [0, 1, 4]


def test_concatenate_keeps_the_rows_of_a_clip_together_and_of_the_first_shard():
    one = make_windows([2, 1, 3])
    again = one.take(slice(None))
    again = type(one)(*again.columns[:-1], X=one.X + 1)
    other = make_windows([2, 2], seed=2)
    both = concatenate([other, one, again])
    assert len(both) == len(one) + len(other)
    for part in (one, other):
        assert_equal(both.take(np.isin(both.clips, part.clips)), part)


def test_pieces_are_small_and_leave_the_rows_of_a_clip_together(monkeypatch):
    shard = make_windows([3, 1, 4, 2, 5, 1])
    monkeypatch.setattr(shards, "MAX_BYTES", 4 * 4 * shard.X.shape[1])
    pieces = list(shard.pieces())
    assert_equal(concatenate(pieces), shard)
    assert len(pieces) > 2
    assert sum(len(piece.starts) for piece in pieces) == len(shard.starts)
    assert max(len(piece) for piece in pieces) < 4 + 5
