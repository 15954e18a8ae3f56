"""Rows of frames lie in one file that processes share, and a recording of several rows gets one answer."""

import tempfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from emobench.features import FeatureTable, get_features
from emobench.features.rows import RowFile, pool_answers


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fill(*parts):
    rows = RowFile(parts[0].shape[1])
    return [rows.append(part) for part in parts], rows.map()


def make_parts(n_columns=5):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, n_columns)).astype(np.float32) for n in (3, 1, 4)]


def test_row_file_holds_what_was_appended_in_order(folder):
    firsts, found = fill(*make_parts())
    assert firsts == [0, 3, 4]
    np.testing.assert_array_equal(found, np.concatenate(make_parts()))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1


def test_row_file_without_rows_is_an_empty_array(folder):
    found = RowFile(7).map()
    assert (found.shape, found.dtype) == ((0, 7), np.float32)
    assert list(folder.iterdir()) == []


def test_row_file_is_gone_with_its_array(folder):
    _, found = fill(*make_parts())
    assert len(list(folder.iterdir())) == 1
    del found
    assert list(folder.iterdir()) == []


def test_row_file_that_is_never_mapped_is_removed(folder):
    rows = RowFile(5)
    rows.append(make_parts()[0])
    del rows
    assert list(folder.iterdir()) == []


def table_of(spans):
    spec = get_features("mfcc40")
    return FeatureTable(np.zeros((9, 40)), np.zeros(3, int), ("a",), (), (), (), spec, "key", spans=spans)


def test_rows_of_utterances_are_theirs_in_their_order():
    table = table_of(np.array([[4, 5], [0, 3], [6, 8]]))
    rows, owners = table.rows_of(np.array([2, 0, 1]))
    assert rows.tolist() == [6, 7, 4, 0, 1, 2]
    assert owners.tolist() == [0, 0, 1, 2, 2, 2]


def test_each_vector_is_a_row():
    rows, owners = table_of(None).rows_of(np.array([7, 2]))
    assert (rows.tolist(), owners.tolist()) == ([7, 2], [0, 1])


def test_rows_of_no_utterance_are_none():
    rows, owners = table_of(np.array([[0, 1]])).rows_of(np.arange(0))
    assert (len(rows), len(owners)) == (0, 0)


@hypothesis.given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(0, 99))
def test_pooled_answers_are_means_over_the_rows_of_each_recording(counts, seed):
    proba = np.random.default_rng(seed).dirichlet(np.ones(3), size=sum(counts))
    owners = np.repeat(np.arange(len(counts)), counts)
    labels, pooled = pool_answers(proba.argmax(axis=1), proba, owners)
    expected = np.array([proba[owners == owner].mean(axis=0) for owner in range(len(counts))])
    np.testing.assert_allclose(pooled, expected)
    np.testing.assert_array_equal(labels, expected.argmax(axis=1))


def test_pooled_label_is_that_of_the_mean_and_not_of_most_rows():
    proba = np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]])
    labels, _ = pool_answers(np.array([0, 0, 1]), proba, np.zeros(3, int))
    assert labels.tolist() == [1]


def test_rows_without_probabilities_vote():
    labels, proba = pool_answers(np.array([2, 1, 1, 0]), None, np.array([0, 0, 0, 1]))
    assert (labels.tolist(), proba) == ([1, 0], None)


def test_answer_for_a_single_row_is_the_models_own():
    """A model may call something else the label than its most probable class."""
    labels, _ = pool_answers(np.array([1, 0, 0]), np.array([[0.9, 0.1]] * 3), np.array([0, 1, 1]))
    assert labels.tolist() == [1, 0]
