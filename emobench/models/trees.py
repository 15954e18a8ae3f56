"""What saved trees of XGBoost may be, checked before XGBoost sees them.

XGBoost trusts its own files: it follows an index that points out of a tree into any memory, and ends the process on
some contradictions. So a file is read here (`emobench.models.ubjson`), held to what `XGBoostClassifier` can have
trained, and *written anew* from what was checked; XGBoost reads that. `Forest` walks the same trees in NumPy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emobench.models import ubjson

ROOT = 2**31 - 1  # what XGBoost writes for the parent of a root
LEAF = -1

_INDICES = ("left_children", "right_children", "parents", "split_indices")
_NUMBERS = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
_FLAGS = ("default_left", "split_type")
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_INT32, _FLOAT32, _UINT8 = np.dtype(">i4"), np.dtype(">f4"), np.dtype("u1")
_TREE = {*_INDICES, *_NUMBERS, *_FLAGS, *_CATEGORIES, "id", "tree_param"}
_COUNT = re.compile("0|[1-9][0-9]{0,8}")


def checked(data: bytes, n_features: int, n_classes: int) -> dict[str, Any]:
    """Return saved trees as XGBoost may read them, to be encoded by `ubjson.encode`.

    Raises
    ------
    ValueError
        If they are not trees for so many features and classes, whole and finite.
    """
    content = ubjson.decode(data)
    learner = _part(content, "learner", dict)
    _only(content, {"learner", "version"})
    _only(
        learner,
        {"attributes", "feature_names", "feature_types", "gradient_booster", "learner_model_param", "objective"},
    )
    _empty(learner, "feature_names", "feature_types")
    version = _part(content, "version", list)
    if len(version) != 3 or not all(isinstance(number, int) and 0 <= number < 1000 for number in version):
        raise ValueError(f"version {version!r}")
    booster = _part(learner, "gradient_booster", dict)
    _only(booster, {"model", "name"})
    if booster.get("name") != "gbtree":
        raise ValueError(f"a booster called {booster.get('name')!r}")
    task = _task(learner, n_features, n_classes)  # first: it tells best that files do not belong together
    return {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": _model(booster, n_features, n_classes), "name": "gbtree"},
            **task,
        },
        "version": version,
    }


@dataclass(frozen=True)
class Forest:
    """All trees as one array of nodes, which answers a few rows in less time than XGBoost takes to begin.

    Attributes
    ----------
    roots : int array of shape (n_trees,)
        The trees of a round stand together, one a group of trees: a class, or both of two classes.
    features, values : arrays of shape (n_nodes,)
        Feature that a split asks for and the value it must be below to go left; of a leaf 0 and its weight.
    children : int array of shape (2 · n_nodes,)
        Right and left child; of a leaf itself.
    depth : int
        Steps to the deepest leaf.
    base : float32 array of shape (n_groups,)
        Score before the first tree.
    """

    roots: np.ndarray
    features: np.ndarray
    values: np.ndarray
    children: np.ndarray
    depth: int
    base: np.ndarray

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """Return the probability of each class for float32 features, of shape (n, n_classes)."""
        node = np.repeat(self.roots[np.newaxis], len(X), axis=0)
        for _ in range(self.depth):
            goes_left = np.take_along_axis(X, self.features[node], axis=1) < self.values[node]
            node = self.children[2 * node + goes_left]
        scores = self.values[node].reshape(len(X), -1, len(self.base)).sum(axis=1) + self.base
        if len(self.base) == 1:  # of the second of two classes
            scores = np.hstack([np.zeros_like(scores), scores])
        proba = np.exp(scores - scores.max(axis=1, keepdims=True))
        return proba / proba.sum(axis=1, keepdims=True)


def forest(content: Mapping[str, Any]) -> Forest:
    """Return the trees of what `checked` returns as a `Forest`."""
    learner = content["learner"]
    trees = learner["gradient_booster"]["model"]["trees"]
    params = learner["learner_model_param"]
    base = np.array(_base_scores(params["base_score"]))
    n_groups = max(1, int(params["num_class"]))
    if n_groups == 1:  # it is kept as a probability
        base = np.log(base / (1 - base))
    sizes = np.array([len(tree["parents"]) for tree in trees])
    roots, node = np.cumsum(sizes) - sizes, np.arange(sizes.sum())
    left, right, features = (_joined(trees, name) for name in ("left_children", "right_children", "split_indices"))
    is_leaf, first = left == LEAF, np.repeat(roots, sizes)
    left, right = np.where(is_leaf, node, left + first), np.where(is_leaf, node, right + first)
    reached, depth = roots[~is_leaf[roots]], 0
    while len(reached):
        below = np.concatenate([left[reached], right[reached]])
        reached, depth = below[~is_leaf[below]], depth + 1
    return Forest(
        roots=roots,
        features=np.where(is_leaf, 0, features),
        values=_joined(trees, "split_conditions").astype(np.float32),
        children=np.stack([right, left], axis=1).ravel(),
        depth=depth,
        base=np.broadcast_to(base, n_groups).astype(np.float32),
    )


def _joined(trees: list[dict[str, Any]], name: str) -> np.ndarray:
    """Return one array of all trees, in the machine's own order of bytes."""
    joined = np.concatenate([tree[name] for tree in trees])
    return joined.astype(np.int64 if joined.dtype.kind == "i" else joined.dtype.newbyteorder("="))


def _base_scores(text: str) -> list[float]:
    return [float(score) for score in text.removeprefix("[").removesuffix("]").split(",")]


def _task(learner: Mapping[str, Any], n_features: int, n_classes: int) -> dict[str, Any]:
    """Return the objective and the parameters of the learner, from which it follows what the trees' sums mean."""
    num_class = n_classes if n_classes > 2 else 0
    params = _part(learner, "learner_model_param", dict)
    said = {name: _number(params, name) for name in ("num_class", "num_feature", "num_target")}
    expected = {"num_class": num_class, "num_feature": n_features, "num_target": 1}
    if said != expected:
        raise ValueError(f"they are for {said['num_feature']} features and {said['num_class'] or 2} classes")
    scores = _part(params, "base_score", str)
    values = _base_scores(scores)
    if len(values) not in (1, max(1, num_class)) or not all(map(math.isfinite, values)):
        raise ValueError(f"base_score {scores[:100]!r}")
    objective = "multi:softprob" if num_class else "binary:logistic"
    found = _part(_part(learner, "objective", dict), "name", str)
    if found != objective:
        raise ValueError(f"objective {found!r} instead of {objective!r}")
    details = {"softmax_multiclass_param": {"num_class": str(num_class)}}
    if not num_class:
        details = {"reg_loss_param": {"scale_pos_weight": "1"}}
    return {
        "learner_model_param": {
            "base_score": scores,
            "boost_from_average": "1",
            **{name: str(number) for name, number in expected.items()},
        },
        "objective": {"name": objective, **details},
    }


def _model(booster: Mapping[str, Any], n_features: int, n_classes: int) -> dict[str, Any]:
    model = _part(booster, "model", dict)
    _only(model, {"cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees"})
    trees, n_groups = _part(model, "trees", list), n_classes if n_classes > 2 else 1
    param = _part(model, "gbtree_model_param", dict)
    counts = (_number(param, "num_parallel_tree"), _number(param, "num_trees"))
    if counts != (1, len(trees)) or not trees or len(trees) % n_groups:
        raise ValueError(f"(trees at once, trees) {counts} for {len(trees)} trees of {n_groups} groups")
    rounds = list(range(0, len(trees) + 1, n_groups))
    groups = [tree % n_groups for tree in range(len(trees))]
    for name, expected in (("iteration_indptr", rounds), ("tree_info", groups)):
        if list(model.get(name, ())) != expected:
            raise ValueError(f"{name} is not that of {len(trees)} trees of {n_groups} groups")
    if "cats" in model:
        cats = _part(model, "cats", dict)
        _only(cats, {"enc", "feature_segments", "sorted_idx"})
        _empty(cats, *cats)
    for tree in trees:
        _check_tree(tree, n_features)
    _check_nodes(trees, n_features)
    kept = ("cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees")
    return {name: model[name] for name in kept if name in model}


def _check_tree(tree: Any, n_features: int) -> None:
    """Hold the parts of a tree to their types and lengths."""
    if not isinstance(tree, dict) or set(tree) != _TREE:
        raise ValueError("a tree that has not the parts of a tree")
    param = _part(tree, "tree_param", dict)
    names = ("num_deleted", "num_feature", "num_nodes", "size_leaf_vector")
    _only(param, set(names))
    n_deleted, for_features, n_nodes, leaf_size = (_number(param, name) for name in names)
    if n_deleted or for_features != n_features or n_nodes < 1 or leaf_size > 1 or type(tree["id"]) is not int:
        raise ValueError(f"a tree with {param!r}")
    for names, kind in ((_INDICES, _INT32), (_NUMBERS, _FLOAT32), (_FLAGS, _UINT8)):
        for name in names:
            array = tree[name]
            if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != (n_nodes,):
                raise ValueError(f"{name} of a tree of {n_nodes} nodes")
    _empty(tree, *_CATEGORIES)


def _check_nodes(trees: list[dict[str, Any]], n_features: int) -> None:
    """Hold the nodes of all trees together to what makes them trees: from each root to leaves, and nowhere else."""
    sizes = np.array([len(tree["parents"]) for tree in trees])
    joined = {name: _joined(trees, name) for name in (*_INDICES, *_NUMBERS, *_FLAGS)}
    if not all(np.isfinite(joined[name]).all() for name in _NUMBERS):
        raise ValueError("numbers that are not finite")
    if joined["split_type"].any() or (joined["default_left"] > 1).any():
        raise ValueError("splits of another type than numbers have")
    if not ((joined["split_indices"] >= 0) & (joined["split_indices"] < n_features)).all():
        raise ValueError(f"splits of features beyond the {n_features} there are")
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # of the node's tree
    size, node = np.repeat(sizes, sizes), np.arange(sizes.sum()) - first
    left, right, parents = (joined[name] for name in ("left_children", "right_children", "parents"))
    is_leaf = (left == LEAF) & (right == LEAF)
    is_split = (np.minimum(left, right) > 0) & (np.maximum(left, right) < size) & (left != right)
    if not (is_leaf | is_split).all():
        raise ValueError("nodes whose children are not in their tree")
    # Each node but a root is a child once, and of the node that it calls its parent: then there is no way in a circle
    # that begins at a root.
    children = (np.concatenate([left, right]) + np.tile(first, 2))[np.tile(is_split, 2)]
    of = np.concatenate([node, node])[np.tile(is_split, 2)]
    is_once = np.bincount(children, minlength=len(node)) == (node > 0)
    if not is_once.all() or (parents[children] != of).any() or (parents[node == 0] != ROOT).any():
        raise ValueError("nodes that are not the child of their parent")


def _part(content: Any, name: str, kind: type) -> Any:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"no {name} that is a {kind.__name__}")
    return value


def _number(content: Mapping[str, Any], name: str) -> int:
    text = _part(content, name, str)
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{name} {text[:20]!r}")
    return int(text)


def _only(content: Mapping[str, Any], names: set[str]) -> None:
    if set(content) - names:
        raise ValueError(f"unknown parts {sorted(set(content) - names)[:3]}")


def _empty(content: Mapping[str, Any], *names: str) -> None:
    for name in names:
        value = content.get(name, ())
        if isinstance(value, dict | str | int) or len(value):
            raise ValueError(f"{name} that is not empty")
