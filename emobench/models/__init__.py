"""Models: named scikit-learn classifiers with their parameters, scaling and way of being stored.

A model is one row of `MODELS`; its class is imported only when it is used. `build` wraps every model in the same
pipeline, so that scaling is learned inside the fold and no caller needs to know which model it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from emobench.errors import ConfigError, did_you_mean
from emobench.registry import Row, attempt, lookup, resolve

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

AT_RANDOM = "holds out utterances at random, so it would listen to speakers that it trains on"


@dataclass(frozen=True)
class Float:
    """A real parameter to tune, `low` to `high` inclusive, on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Int:
    """A whole parameter to tune, `low` to `high` inclusive in steps of `step`."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True)
class Choice:
    """A parameter to tune that takes one of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class ModelSpec(Row):
    """A row of `MODELS`.

    Attributes
    ----------
    estimator : "module:Class" or class
        The final scikit-learn classifier, or a function with keyword arguments that returns one.
    defaults : mapping
        Parameters that differ from the class's own defaults.
    version : int
        Raised when the same parameters give other results.
    is_scaled : bool
        Whether features are standardised inside the fold.
    storage : str
        How a bundle stores it: ``"skops"``, ``"xgboost"`` or ``"cnn"``.
    requires : tuple of str
        Importable packages that it needs besides scikit-learn.
    cost : float
        Seconds that six folds of 800 × 40 take, roughly; the longest jobs are started first.
    withheld : mapping of str to str
        Parameters of the class that nobody may set → why.
    check : "module:function" or function
        Called with an unfitted estimator; raises `ConfigError` for a parameter that
        is out of range; empty where the class declares its constraints as scikit-learn's do.
    space : mapping of str to Float, Int or Choice
        Parameters that tuning searches; empty for a model that has nothing to tune.
    """

    kind: ClassVar[str] = "model"
    targets: ClassVar[tuple[str, ...]] = ("estimator", "check")

    name: str
    title: str
    estimator: str | Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    is_scaled: bool = True
    storage: str = "skops"
    requires: tuple[str, ...] = ()
    cost: float = 1.0
    withheld: Mapping[str, str] = field(default_factory=dict)
    check: str | Callable[[Any], None] = ""
    space: Mapping[str, Float | Int | Choice] = field(default_factory=dict)


MODELS: dict[str, ModelSpec] = {
    row.name: row
    for row in (
        ModelSpec(
            name="cnn",
            title="Convolutional network along the feature vector, two layers",
            estimator="emobench.models.cnn:CNNClassifier",
            storage="cnn",
            cost=20.0,
            check="emobench.models.cnn:check_parameters",
            space={
                "epochs": Int(20, 80, step=10),
                "learning_rate": Float(3e-4, 3e-3, log=True),
                "dropout": Float(0.0, 0.5),
                "batch_size": Choice((16, 32, 64)),
            },
        ),
        ModelSpec(
            name="mlp",
            title="Multilayer perceptron, two hidden layers (scikit-learn)",
            estimator="sklearn.neural_network:MLPClassifier",
            defaults={"hidden_layer_sizes": (256, 128), "max_iter": 500},
            cost=7.0,
            withheld={"early_stopping": f"it {AT_RANDOM}"},
            space={
                "hidden_layer_sizes": Choice(((64,), (256,), (128, 64), (256, 128))),
                "alpha": Float(1e-5, 1.0, log=True),
                "learning_rate_init": Float(3e-4, 1e-2, log=True),
            },
        ),
        ModelSpec(
            name="svm",
            title="Support vector machine, RBF kernel (scikit-learn); no probabilities",
            estimator="sklearn.svm:SVC",
            defaults={"C": 10.0},
            cost=0.3,
            withheld={"probability": f"its calibration {AT_RANDOM}, and scikit-learn is removing it"},
            space={"C": Float(0.3, 100.0, log=True), "gamma": Float(2e-3, 0.2, log=True)},
        ),
        ModelSpec(
            name="xgboost",
            title="Gradient-boosted trees (XGBoost)",
            estimator="emobench.models.boosting:XGBoostClassifier",
            is_scaled=False,
            storage="xgboost",
            requires=("xgboost",),
            cost=7.0,
            check="emobench.models.boosting:check_trees",
            space={
                "n_estimators": Int(100, 400, step=50),
                "max_depth": Int(2, 6),
                "learning_rate": Float(0.03, 0.4, log=True),
                "subsample": Float(0.5, 1.0),
                "colsample_bytree": Float(0.3, 1.0),
                "min_child_weight": Float(1.0, 8.0, log=True),
            },
        ),
        ModelSpec(
            name="dummy",
            title="The most frequent class, whatever is said: the floor of every leaderboard",
            estimator="sklearn.dummy:DummyClassifier",
            defaults={"strategy": "prior"},
            is_scaled=False,
            cost=0.01,
        ),
    )
}


def get_model(name: str) -> ModelSpec:
    """Return the row of `MODELS` called `name`, or raise `UnknownNameError`."""
    return lookup("model", MODELS, name)


def missing_packages(spec: ModelSpec) -> list[str]:
    """Return the packages a model needs that cannot be found here; nothing is imported."""
    return [name for name in spec.requires if not _is_installed(name)]


def parameters(spec: ModelSpec) -> dict[str, Any]:
    """Return every parameter that may be set, with its default, by name.

    The random state is not among them: it comes from the run's seed.
    """
    settable = _estimator(spec, spec.defaults).get_params(deep=False)
    return {name: value for name, value in sorted(settable.items()) if name not in {"random_state", *spec.withheld}}


def settings(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter with the value it has under `params`, lists as tuples where the class wants tuples."""
    defaults = parameters(spec)
    return {**defaults, **{name: _like(defaults.get(name), value) for name, value in params.items()}}


# Raised when the same search space and seed choose other parameters.
TUNING_VERSION = 1


def describe_space(spec: ModelSpec) -> dict[str, Any]:
    """Return a search space as plain data, by parameter."""
    return {name: {"kind": type(domain).__name__, **asdict(domain)} for name, domain in sorted(spec.space.items())}


def check_parameters(spec: ModelSpec, params: Mapping[str, Any]) -> None:
    """Refuse parameters that the model would refuse, before anything is fitted.

    Raises
    ------
    ConfigError
        For a parameter that is unknown or withheld, and for a value of the wrong type or out of range.
    """
    defaults = parameters(spec)
    for name, value in params.items():
        if name not in defaults:
            raise ConfigError(_unknown_parameter(spec, name, list(defaults)))
        if problem := _refusal(spec, name, _like(defaults[name], value), defaults[name]):
            raise ConfigError(f"Model {spec.name!r}: {problem}")


def build(spec: ModelSpec, params: Mapping[str, Any] | None = None, *, random_state: int | None = None) -> Pipeline:
    """Return the unfitted pipeline of a model: ``scale`` where the row asks for it, then ``model``.

    Parameters
    ----------
    params : mapping, optional
        Parameters of the final estimator that differ from the row's; a list stands for a tuple, as in YAML.
    random_state : int, optional
        Set where the estimator has one.

    Raises
    ------
    ConfigError
        See `check_parameters`.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    params = params or {}
    check_parameters(spec, params)
    estimator = _estimator(spec, settings(spec, params))
    if "random_state" in estimator.get_params(deep=False):
        estimator.set_params(random_state=random_state)
    scale = [("scale", StandardScaler())] if spec.is_scaled else []
    return Pipeline([*scale, ("model", estimator)])


def _estimator(spec: ModelSpec, params: Mapping[str, Any]) -> Any:
    """Return the unfitted final estimator; raise `ConfigError` where the row's class or function makes none."""
    make = resolve(spec.estimator)
    estimator, problem = attempt(lambda: make(**params))
    if not problem and not hasattr(estimator, "get_params"):
        problem = f"{type(estimator).__name__} has no get_params, so it is no scikit-learn estimator"
    if problem:
        raise ConfigError(f"Model {spec.name!r} cannot be built: {problem}. Correct its row, or leave the model out.")
    return estimator


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # blocked by an import hook; half-initialised module
        return False


def _unknown_parameter(spec: ModelSpec, name: str, known: list[str]) -> str:
    if name in spec.withheld:
        return f"{name} of model {spec.name!r} cannot be set: {spec.withheld[name]}. Remove it."
    if name == "random_state":
        return f"random_state of model {spec.name!r} follows from the run's seed. Set `seed` instead."
    return (
        f"Unknown parameter {name!r} of model {spec.name!r}.{did_you_mean(name, known)} "
        f"Known parameters: {', '.join(known)}."
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _like(default: Any, value: Any) -> Any:
    """Return a list as a tuple where the default is one: YAML and JSON know no tuples."""
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def _refusal(spec: ModelSpec, name: str, value: Any, default: Any) -> str | None:
    """Return why the class would refuse a value, or None."""
    if not _is_finite(value):
        return f"{name} must be finite. Got {value!r}. Give a number."
    problem = _refusal_of_class(spec, name, value, default)
    if problem is None and isinstance(value, tuple) and _refusal_of_class(spec, name, default[0], default[0]) is None:
        # Where one number would do, as for `hidden_layer_sizes`, each member of a tuple must be such a number.
        problems = (_refusal_of_class(spec, name, member, default[0]) for member in value)
        problem = next(filter(None, problems), None)
    return problem


def _refusal_of_class(spec: ModelSpec, name: str, value: Any, default: Any) -> str | None:
    estimator = _estimator(spec, spec.defaults)
    constraints = getattr(estimator, "_parameter_constraints", {}).get(name, ())
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    # Python's bool is an int, so that `C: true` would pass for 1.
    takes_bool = any(isinstance(constraint, str) and constraint in {"boolean", "verbose"} for constraint in constraints)
    if isinstance(value, bool) and not takes_bool and (constraints or is_number):
        return f"{name} must not be a bool. Got {value!r}. Change its value."
    if isinstance(value, list | tuple | Mapping) and is_number:
        return f"{name} must be a number. Got {value!r}. Change its value."
    estimator.set_params(**{name: value})
    try:
        if spec.check:
            resolve(spec.check)(estimator)
        elif constraints:
            estimator._validate_params()
    except ValueError as error:  # scikit-learn's InvalidParameterError, and ConfigError
        return str(error)
    return None
