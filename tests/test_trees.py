"""Saved trees are trees before XGBoost sees them; everything else is a ValueError."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xgboost import Booster

from emobench.models import trees, ubjson
from emobench.models.boosting import XGBoostClassifier, booster_bytes, probabilities

N_FEATURES = 6
X = np.random.default_rng(0).normal(size=(90, N_FEATURES)).astype(np.float32)


@pytest.fixture(scope="module", params=[2, 5])
def saved(request):
    """The bytes of trees, and the number of their classes."""
    y = (np.arange(90) + (X[:, 0] > 0)) % request.param
    return booster_bytes(XGBoostClassifier(n_estimators=4, max_depth=3, random_state=0).fit(X, y)), request.param


# --- UBJSON ---------------------------------------------------------------------------------------------------------

arrays = st.sampled_from([">i1", "u1", ">i2", ">i4", ">i8", ">f4", ">f8"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 100), max_size=5).map(lambda values: np.array(values, dtype))
)
values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def plain(value):
    """Return a value with arrays as pairs of type and list, which can be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(values)
def test_ubjson_decodes_what_it_encodes(value):
    assert plain(ubjson.decode(ubjson.encode(value))) == plain(value)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(list(b"{}[]$#LSiIld\x00\x01\xff")), max_size=40).map(bytes))
def test_ubjson_of_any_bytes_is_a_value_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        ubjson.decode(data)


def length(number):
    return b"L" + struct.pack(">q", number)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}{}",
        b"S" + length(2**62),
        b"S" + length(-1),
        b"[#" + length(2**62),
        b"[$d#" + length(2**62),
        b"[$d#" + length(-8),
        b"[$L#" + length(3) + bytes(23),
        b"[$Z#" + length(3),
        b"[" + b"i\x01]",
        b"[#" * 1 + length(1) + b"Z",
        (b"[#" + length(1)) * 2000,
        b"{" + length(1) + b"ai\x01" + length(1) + b"ai\x01}",
        b"S" + length(1) + b"\xff",
    ],
)
def test_ubjson_refuses_what_it_would_have_to_believe(data):
    with pytest.raises(ValueError, match=r"\w"):
        ubjson.decode(data)


# --- trees ----------------------------------------------------------------------------------------------------------


def test_checked_trees_answer_the_same(saved):
    data, n_classes = saved
    checked = ubjson.encode(trees.checked(data, N_FEATURES, n_classes))
    one, other = (Booster({"nthread": 1}, model_file=bytearray(content)) for content in (data, checked))
    np.testing.assert_array_equal(one.inplace_predict(X), other.inplace_predict(X))
    assert ubjson.encode(trees.checked(checked, N_FEATURES, n_classes)) == checked


def test_forest_answers_as_the_booster(saved):
    data, n_classes = saved
    forest = trees.forest(trees.checked(data, N_FEATURES, n_classes))
    asked = np.vstack([X, 100 * X, np.zeros_like(X[:1])])
    expected = probabilities(Booster({"nthread": 1}, model_file=bytearray(data)), asked)
    np.testing.assert_allclose(forest.probabilities(asked), expected, atol=1e-6)
    assert forest.depth <= 3


def test_forest_of_stumps_that_split_nothing():
    y = np.arange(90) % 3
    model = XGBoostClassifier(n_estimators=2, gamma=1e6).fit(X, y)
    forest = trees.forest(trees.checked(booster_bytes(model), N_FEATURES, 3))
    assert forest.depth == 0
    np.testing.assert_allclose(forest.probabilities(X), model.predict_proba(X), atol=1e-6)


def test_forest_goes_right_where_a_value_is_the_threshold():
    """XGBoost goes left below the threshold, and only there."""
    model = XGBoostClassifier(n_estimators=1, max_depth=1).fit(X[:, :1], X[:, 0] > 0)
    forest = trees.forest(trees.checked(booster_bytes(model), 1, 2))
    asked = np.nextafter(np.full((3, 1), forest.values[0]), np.array([[-9], [forest.values[0]], [9]], np.float32))
    np.testing.assert_allclose(forest.probabilities(asked), model.predict_proba(asked), atol=1e-6)
    assert len(np.unique(forest.probabilities(asked)[:, 0])) == 2


def first(model, name, value):
    """Set one number of the first tree that has a split."""
    tree = next(tree for tree in model["trees"] if len(tree["parents"]) > 1)
    tree[name] = tree[name].copy()
    tree[name][0] = value


def drop(tree, name):
    del tree[name]


def param(model, name, value):
    model["trees"][0]["tree_param"][name] = value


WRONG = {
    "child-beyond": lambda model: first(model, "left_children", 10**6),
    "child-negative": lambda model: first(model, "right_children", -7),
    "child-is-root": lambda model: first(model, "left_children", 0),
    "half-a-leaf": lambda model: first(model, "left_children", -1),
    "child-twice": lambda model: first(model, "left_children", next(iter(model["trees"]))["right_children"][0]),
    "feature-beyond": lambda model: first(model, "split_indices", N_FEATURES),
    "feature-negative": lambda model: first(model, "split_indices", -1),
    "categorical": lambda model: first(model, "split_type", 1),
    "default": lambda model: first(model, "default_left", 7),
    "root-with-parent": lambda model: first(model, "parents", 0),
    "nan": lambda model: first(model, "split_conditions", np.nan),
    "infinite": lambda model: first(model, "base_weights", np.inf),
    "shorter": lambda model: model["trees"][0].update(sum_hessian=model["trees"][0]["sum_hessian"][:-1]),
    "other-type": lambda model: model["trees"][0].update(parents=model["trees"][0]["parents"].astype(">i8")),
    "list": lambda model: model["trees"][0].update(parents=[]),
    "part-missing": lambda model: drop(model["trees"][0], "loss_changes"),
    "part-new": lambda model: model["trees"][0].update(extra=1),
    "no-tree": lambda model: model["trees"].__setitem__(0, 3),
    "fewer-trees": lambda model: model["trees"].pop(),
    "no-trees": lambda model: model["trees"].clear(),
    "num-nodes": lambda model: param(model, "num_nodes", "0"),
    "num-nodes-huge": lambda model: param(model, "num_nodes", "99999999999999999999"),
    "num-nodes-text": lambda model: param(model, "num_nodes", "many"),
    "num-deleted": lambda model: param(model, "num_deleted", "1"),
    "num-feature": lambda model: param(model, "num_feature", "7"),
    "vector-leaf": lambda model: param(model, "size_leaf_vector", "3"),
    "num-trees": lambda model: model["gbtree_model_param"].update(num_trees="1000000"),
    "parallel": lambda model: model["gbtree_model_param"].update(num_parallel_tree="2"),
    "rounds": lambda model: model["iteration_indptr"].append(10**9),
    "group-beyond": lambda model: model["tree_info"].__setitem__(0, 99),
    "groups-missing": lambda model: model.pop("tree_info"),
    "categories": lambda model: model["trees"][0].update(categories=np.zeros(3, ">i4")),
    "unknown-part": lambda model: model.update(weight_drop=[]),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_contradictory_trees_are_refused(saved, change):
    data, n_classes = saved
    content = ubjson.decode(data)
    change(content["learner"]["gradient_booster"]["model"])
    with pytest.raises(ValueError, match=r"\w"):
        trees.checked(ubjson.encode(content), N_FEATURES, n_classes)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("learner_model_param", "num_class"), "999"),
        (("learner_model_param", "num_feature"), "0"),
        (("learner_model_param", "num_target"), "5"),
        (("learner_model_param", "base_score"), "[nan]"),
        (("learner_model_param", "base_score"), "[1,2,3,4,5,6,7]"),
        (("learner_model_param", "base_score"), "many"),
        (("objective", "name"), "reg:squarederror"),
        (("gradient_booster", "name"), "dart"),
        (("feature_names",), ["a"]),
        (("unknown",), "x"),
    ],
)
def test_trees_for_another_task_are_refused(saved, path, value):
    data, n_classes = saved
    content = ubjson.decode(data)
    place = content["learner"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"\w"):
        trees.checked(ubjson.encode(content), N_FEATURES, n_classes)


def test_trees_that_go_in_a_circle_are_refused(saved):
    """Each node has one parent, and the two that are each other's are reached from no root."""
    data, n_classes = saved
    content = ubjson.decode(data)
    model = content["learner"]["gradient_booster"]["model"]
    tree = next(tree for tree in model["trees"] if len(tree["parents"]) >= 5)
    for name in ("left_children", "right_children", "parents"):
        tree[name] = np.resize(np.array([], tree[name].dtype), len(tree["parents"]))
    n = len(tree["parents"])
    left, right, parents = np.full(n, -1), np.full(n, -1), np.zeros(n)
    left[1], right[1], left[2], right[2] = 2, 3, 1, 4
    parents[:5] = trees.ROOT, 2, 1, 1, 2
    tree |= {
        "left_children": left.astype(">i4"),
        "right_children": right.astype(">i4"),
        "parents": parents.astype(">i4"),
    }
    with pytest.raises(ValueError, match="child of their parent"):
        trees.checked(ubjson.encode(content), N_FEATURES, n_classes)
