"""Large tables reach workers through one file, small ones with the job, and nothing stays behind."""

import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from emobench.errors import StorageError
from emobench.execution.workers import Pool
from emobench.features import FeatureTable, get_features
from emobench.features.rows import RowFile
from emobench.running.transport import SMALL_BYTES, Depot, fetch


def make_table(n):
    rng = np.random.default_rng(0)
    names = tuple(f"u{number}" for number in range(n))
    X = rng.normal(size=(n, 40)).astype(np.float32)
    y = rng.integers(0, 2, n)
    return FeatureTable(X, y, ("happy", "sad"), names, names, ("female",) * n, get_features("mfcc40"), "key")


@pytest.fixture
def large():
    return make_table(SMALL_BYTES // 160 + 1)


def describe(offered):
    """Return what a worker sees of a table."""
    table = fetch(offered)
    same = table.X is fetch(offered).X
    return type(table.X).__name__, table.X.flags.writeable, table.X[7].tolist(), table.ids[7], same


def test_fetched_table_is_the_offered_one(large, tmp_path):
    with Depot(tmp_path) as depot:
        found = fetch(pickle.loads(pickle.dumps(depot.offer(large))))
        for field in fields(FeatureTable):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(large, field.name))
        assert found.y.dtype == large.y.dtype


def test_workers_map_a_large_table_and_read_it_once(large, tmp_path):
    with Depot(tmp_path) as depot, Pool(2) as pool:
        answers = [answer for _, answer in pool.run(describe, [(depot.offer(large),)] * 6)]
        assert len(list(tmp_path.iterdir())) == 2
    assert answers == [("memmap", False, large.X[7].tolist(), "u7", True)] * 6
    assert not list(tmp_path.iterdir())


def test_rows_that_are_in_a_file_already_are_not_written_again(tmp_path):
    large = make_table(SMALL_BYTES // 160 + 10)
    rows = RowFile(large.X.shape[1])
    rows.append(large.X)
    table = replace(large, X=rows.map())
    with Depot(tmp_path) as depot:
        offered = depot.offer(table)
        assert [path.name for path in tmp_path.iterdir()] == [Path(offered.columns).name]
        np.testing.assert_array_equal(fetch(offered).X, large.X)
        part = depot.offer(replace(table, X=table.X[1:]))
        assert part.rows != offered.rows
        np.testing.assert_array_equal(fetch(part).X, large.X[1:])
    assert Path(offered.rows).exists()


def test_what_a_job_carries_does_not_grow_with_the_table(tmp_path):
    with Depot(tmp_path) as depot:
        sizes = [len(pickle.dumps(depot.offer(make_table(n)))) for n in (10_000, 40_000)]
    assert sizes[0] == sizes[1] < 10_000


def test_small_table_needs_no_file(tmp_path):
    table = make_table(100)
    with Depot(tmp_path) as depot:
        assert fetch(depot.offer(table)) is table
        assert not list(tmp_path.iterdir())


def test_depot_that_cannot_be_written_says_where(large, tmp_path):
    with pytest.raises(StorageError, match="gone"), Depot(tmp_path / "gone") as depot:
        depot.offer(large)
