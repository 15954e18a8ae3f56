"""Models: named scikit-learn classifiers with their parameters, scaling and way of being exported.

A model is one row of `MODELS`; its class is imported only when it is used. `build` wraps every model in the same
pipeline, so that scaling is learned inside the fold and no caller needs to know which model it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from emobench.errors import ConfigError, did_you_mean
from emobench.registry import Row, attempt, lookup, resolve

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

AT_RANDOM = "holds out utterances at random, so it would listen to speakers that it trains on"

CALIBRATE = "calibrate"
"""Parameter that every model has, unless its class has another one of this name."""

CALIBRATIONS = {True: "sigmoid", "sigmoid": "sigmoid", "temperature": "temperature"}
"""What it may be, besides false → the method."""


class ParameterError(ConfigError):
    """A parameter of a model that cannot be, and which one."""

    def __init__(self, parameter: str, message: str):
        super().__init__(message)
        self.parameter = parameter


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
    converter : str
        ``"module:function"`` that makes an ONNX graph of the fitted classifier; see `emobench.bundles.converters`.
    requires : tuple of str
        Importable packages that it needs besides scikit-learn.
    cost : float
        Seconds that six folds of 800 × 40 take, roughly; the longest jobs are started first.
    later : frozenset of str
        Parameters that its class did not always have: where they are None, they are no part of what results depend on.
    withheld : mapping of str to str
        Parameters of the class that nobody may set → why.
    check : "module:function" or function
        Called with an unfitted estimator; raises `ConfigError` for a parameter that
        is out of range; empty where the class declares its constraints as scikit-learn's do.
    space : mapping of str to Float, Int or Choice
        Parameters that tuning searches; empty for a model that has nothing to tune. ``options.units`` is the member
        ``units`` of the parameter `options`.
    family : str
        ``"module:object"`` of the `Family` of a row that stands for many models; empty for a single one.
    takes : tuple of str
        Which features it can see: ``"vector"``, ``"frames"`` or both. A family says it for each of its models.
    takes_groups : bool
        Whether its `fit` takes the speaker of each row as ``groups``.
    members : str
        The parameter that lists other models, which a config may name by the `id` of another row.
    memory_bytes : int
        What a worker that fits it takes, roughly.
    """

    kind: ClassVar[str] = "model"
    targets: ClassVar[tuple[str, ...]] = ("estimator", "check")

    name: str
    title: str
    estimator: str | Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    is_scaled: bool = True
    converter: str = "emobench.bundles.converters:from_sklearn"
    requires: tuple[str, ...] = ()
    cost: float = 1.0
    later: frozenset[str] = frozenset()
    withheld: Mapping[str, str] = field(default_factory=dict)
    check: str | Callable[[Any], None] = ""
    space: Mapping[str, Float | Int | Choice] = field(default_factory=dict)
    family: str = ""
    takes: tuple[str, ...] = ("vector",)
    takes_groups: bool = False
    members: str = ""
    memory_bytes: int = 300 * 2**20


@dataclass(frozen=True)
class Family:
    """What depends on the settings of a row that stands for many models; each is called with all its settings.

    Attributes
    ----------
    check : callable
        Raises `ConfigError` for settings that do not go together.
    identity : callable
        Returns what the results depend on besides the settings: a mapping of plain data.
    space : callable
        Returns what tuning searches besides `ModelSpec.space`.
    takes : callable
        Returns the features that the model can see.
    members : callable
        Returns the models that it is made of: pairs of row and parameters.
    """

    check: Callable[[Mapping[str, Any]], None]
    identity: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    space: Callable[[Mapping[str, Any]], Mapping[str, Float | Int | Choice]]
    takes: Callable[[Mapping[str, Any]], tuple[str, ...]]
    members: Callable[[Mapping[str, Any]], Sequence[tuple[ModelSpec, Mapping[str, Any]]]] = lambda settings: ()


# Measured: TensorFlow, a network of 300 × 64 frames and its export.
KERAS_BYTES = 900 * 2**20
KERAS_SPACE: dict[str, Float | Int | Choice] = {
    "epochs": Int(20, 80, step=10),
    "learning_rate": Float(3e-4, 3e-3, log=True),
    "batch_size": Choice((16, 32, 64)),
}
SHAPE = "it is the shape of the features"

MODELS: dict[str, ModelSpec] = {
    row.name: row
    for row in (
        ModelSpec(
            name="cnn",
            title="The reference network: two convolutions along the feature vector (Keras)",
            estimator="emobench.models.keras_classifier:KerasClassifier",
            version=2,
            converter="emobench.bundles.converters:from_keras",
            requires=("tensorflow", "keras"),
            cost=30.0,
            withheld={
                "network": "this is the reference network; take {name: keras, params: {network: …}}",
                "shape": SHAPE,
            },
            space=KERAS_SPACE,
            family="emobench.models.keras_classifier:FAMILY",
            takes_groups=True,
            memory_bytes=KERAS_BYTES,
        ),
        ModelSpec(
            name="keras",
            title="Any network of `emobench list networks`, named by params: {network: …} (Keras)",
            estimator="emobench.models.keras_classifier:KerasClassifier",
            converter="emobench.bundles.converters:from_keras",
            requires=("tensorflow", "keras"),
            cost=30.0,
            withheld={"shape": SHAPE},
            space=KERAS_SPACE,
            family="emobench.models.keras_classifier:FAMILY",
            takes_groups=True,
            memory_bytes=KERAS_BYTES,
        ),
        ModelSpec(
            name="mlp",
            title="Multilayer perceptron, two hidden layers (scikit-learn)",
            estimator="emobench.models.perceptron:WeightedMLPClassifier",
            defaults={"hidden_layer_sizes": (256, 128), "max_iter": 500},
            cost=7.0,
            later=frozenset({"class_weight"}),
            withheld={"early_stopping": f"it {AT_RANDOM}"},
            space={
                "hidden_layer_sizes": Choice(((64,), (256,), (128, 64), (256, 128))),
                "alpha": Float(1e-5, 1.0, log=True),
                "learning_rate_init": Float(3e-4, 1e-2, log=True),
            },
        ),
        ModelSpec(
            name="svm",
            title="Support vector machine, RBF kernel (scikit-learn); probabilities with calibrate: true",
            estimator="sklearn.svm:SVC",
            defaults={"C": 10.0},
            cost=0.3,
            withheld={"probability": f"its calibration {AT_RANDOM}, and scikit-learn is removing it"},
            space={"C": Float(0.3, 100.0, log=True), "gamma": Float(2e-3, 0.2, log=True)},
        ),
        ModelSpec(
            name="logistic",
            title="Logistic regression, strongly regularised (scikit-learn)",
            estimator="sklearn.linear_model:LogisticRegression",
            defaults={"C": 0.01, "max_iter": 1000},
            cost=0.3,
            space={"C": Float(1e-4, 1.0, log=True)},
        ),
        ModelSpec(
            name="knn",
            title="Nearest neighbours, the nearer the weightier (scikit-learn)",
            estimator="sklearn.neighbors:KNeighborsClassifier",
            defaults={"n_neighbors": 15, "weights": "distance", "algorithm": "brute"},
            converter="emobench.bundles.converters:from_neighbors",
            cost=0.2,
            space={"n_neighbors": Int(3, 51, step=4), "weights": Choice(("uniform", "distance"))},
        ),
        ModelSpec(
            name="xgboost",
            title="Gradient-boosted trees (XGBoost)",
            estimator="emobench.models.boosting:XGBoostClassifier",
            is_scaled=False,
            converter="emobench.bundles.converters:from_xgboost",
            requires=("xgboost",),
            cost=7.0,
            check="emobench.models.boosting:check_trees",
            later=frozenset({"class_weight"}),
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
            name="vote",
            title="The soft vote of other models, `members`: the weighted mean of their probabilities",
            estimator="emobench.models.voting:SoftVote",
            is_scaled=False,
            converter="emobench.bundles.votes:from_vote",
            cost=0.01,
            withheld={"shape": SHAPE},
            family="emobench.models.voting:FAMILY",
            takes_groups=True,
            members="members",
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


def missing_packages(spec: ModelSpec, params: Mapping[str, Any] | None = None) -> list[str]:
    """Return the packages a model and its members need that cannot be found here; nothing of them is imported."""
    needed = dict.fromkeys(name for row, _ in with_members(spec, params or {}) for name in row.requires)
    return [name for name in needed if not _is_installed(name)]


def parameters(spec: ModelSpec) -> dict[str, Any]:
    """Return every parameter that may be set, with its default, by name.

    The random state is not among them: it comes from the run's seed.
    """
    settable = _estimator(spec, spec.defaults).get_params(deep=False)
    return {name: value for name, value in sorted(settable.items()) if name not in {"random_state", *spec.withheld}}


def settings(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter with the value it has under `params`, lists as tuples where the class wants tuples.

    ``options.units`` sets the member ``units`` of the parameter `options` and leaves its others. `calibrate` is there
    only where it is on, as the name of its method.
    """
    values = parameters(spec)
    for name, value in params.items():
        if is_calibration(spec, name):
            values |= {CALIBRATE: CALIBRATIONS[value]} if value else {}
            continue
        name, _, member = name.partition(".")
        values[name] = {**(values.get(name) or {}), member: value} if member else _like(values.get(name), value)
    return values


def search_space(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Float | Int | Choice]:
    """Return what tuning searches of a model under some parameters; empty where there is nothing."""
    if not spec.family:
        return dict(spec.space)
    return {**spec.space, **resolve(spec.family).space(settings(spec, params))}


def takes(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which features a model can see: ``"vector"``, ``"frames"`` or both."""
    return resolve(spec.family).takes(settings(spec, params)) if spec.family else spec.takes


def with_members(spec: ModelSpec, params: Mapping[str, Any]) -> list[tuple[ModelSpec, Mapping[str, Any]]]:
    """Return a model with its parameters, and the models that it is made of with theirs."""
    members = resolve(spec.family).members(settings(spec, params)) if spec.members else ()
    return [(spec, params), *members]


def cost(spec: ModelSpec, params: Mapping[str, Any]) -> float:
    """Return what a model costs under some parameters, in the seconds of `ModelSpec.cost`."""
    own = sum(row.cost * _n_fits(given) for row, given in with_members(spec, params)[1:]) + spec.cost
    return own * _n_fits(params)


def memory_bytes(spec: ModelSpec, params: Mapping[str, Any]) -> int:
    """Return what a worker takes that fits a model under some parameters, roughly."""
    return max(row.memory_bytes for row, _ in with_members(spec, params))


def _n_fits(params: Mapping[str, Any]) -> int:
    from emobench.models.calibration import N_SPLITS

    return 1 + N_SPLITS * bool(params.get(CALIBRATE))


def describe(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's results depend on: its version and every setting, and what its family adds."""
    values = settings(spec, params)
    more = dict(resolve(spec.family).identity(values)) if spec.family else {}
    values = {name: value for name, value in values.items() if value is not None or name not in spec.later}
    if spec.members:
        more["members"] = [{**describe(*member), **member[0].origin_key()} for member in with_members(spec, params)[1:]]
    return {"model": spec.name, "model_version": spec.version, "params": values, **more}


# Raised when the same search space and seed choose other parameters.
TUNING_VERSION = 1


def describe_space(space: Mapping[str, Float | Int | Choice]) -> dict[str, Any]:
    """Return a search space as plain data, by parameter."""
    return {name: {"kind": type(domain).__name__, **asdict(domain)} for name, domain in sorted(space.items())}


def check_parameter(spec: ModelSpec, name: str, value: Any) -> None:
    """Refuse a parameter that is unknown or withheld, or a value of the wrong type or out of range: `ConfigError`."""
    defaults = parameters(spec)
    if is_calibration(spec, name):
        return _check_calibration(spec, value)
    name, _, member = name.partition(".")
    if name not in defaults or (member and not isinstance(defaults[name], Mapping | None)):
        raise ConfigError(_unknown_parameter(spec, name, list(defaults)))
    if not member and (problem := _refusal(spec, name, _like(defaults[name], value), defaults[name])):
        raise ConfigError(f"Model {spec.name!r}: {problem}")


def check_parameters(spec: ModelSpec, params: Mapping[str, Any]) -> None:
    """Refuse parameters that the model would refuse, before anything is fitted.

    Raises
    ------
    ConfigError
        See `check_parameter`; and for settings of a family that do not go together.
    """
    for name, value in params.items():
        check_parameter(spec, name, value)
    check_family(spec, params)


def check_family(spec: ModelSpec, params: Mapping[str, Any]) -> None:
    """Refuse parameters, each of which is fine, that do not go together in a family: `ConfigError`."""
    if spec.family:
        resolve(spec.family).check(settings(spec, params))


def build(
    spec: ModelSpec,
    params: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, ...] = (),
    random_state: int | None = None,
) -> Pipeline:
    """Return the unfitted pipeline of a model: ``scale`` where the row asks for it, then ``model``.

    Parameters
    ----------
    params : mapping, optional
        Parameters of the final estimator that differ from the row's; a list stands for a tuple, as in YAML.
    shape : tuple of int
        (t, c) where a row of X is t frames of c channels, flattened; else a row is a vector.
    random_state : int, optional
        Set where the estimator has one.

    Raises
    ------
    ConfigError
        See `check_parameters`.
    """
    from sklearn.pipeline import Pipeline

    params = params or {}
    check_parameters(spec, params)
    method = calibration_method(spec, params)
    values = settings(spec, {name: value for name, value in params.items() if not is_calibration(spec, name)})
    estimator = _estimator(spec, values)
    own = estimator.get_params(deep=False)
    if "random_state" in own:
        estimator.set_params(random_state=random_state)
    if "shape" in own and len(shape) == 2:
        estimator.set_params(shape=shape)
    if method:
        from emobench.models.calibration import SpeakerCalibratedClassifier

        estimator = SpeakerCalibratedClassifier(estimator, method=method)
    scale = [("scale", build_scaler(shape))] if spec.is_scaled else []
    return Pipeline([*scale, ("model", estimator)])


def build_scaler(shape: tuple[int, ...] = ()) -> Any:
    """Return what standardises features inside a fold: by column, and frames (t, c) by channel."""
    from sklearn.preprocessing import StandardScaler

    from emobench.models.scaling import ChannelScaler

    return ChannelScaler(n_channels=shape[1]) if len(shape) == 2 else StandardScaler()


def calibration_method(spec: ModelSpec, params: Mapping[str, Any]) -> str:
    """Return how a model's probabilities are calibrated on folds of speakers; empty where they are not."""
    is_on = params.get(CALIBRATE) and is_calibration(spec, CALIBRATE)
    return CALIBRATIONS[params[CALIBRATE]] if is_on else ""


def with_groups(spec: ModelSpec, params: Mapping[str, Any], groups: Any) -> dict[str, Any]:
    """Return the arguments that tell the last step of a pipeline's `fit` who speaks, where it takes that."""
    takes_groups = spec.takes_groups or calibration_method(spec, params)
    return {"model__groups": groups} if takes_groups and groups is not None else {}


def is_calibration(spec: ModelSpec, name: str) -> bool:
    """Return whether a parameter asks for calibration, and is not one of the class's own."""
    return name == CALIBRATE and name not in parameters(spec)


def _check_calibration(spec: ModelSpec, value: Any) -> None:
    if not isinstance(value, bool | str) or value not in {False, *CALIBRATIONS}:
        raise ConfigError(
            f"Model {spec.name!r}: {CALIBRATE} must be true, false, sigmoid or temperature. Got {value!r}. Correct it."
        )
    estimator = _estimator(spec, spec.defaults)
    if value and not (hasattr(estimator, "decision_function") or hasattr(estimator, "predict_proba")):
        raise ConfigError(
            f"Model {spec.name!r}: it has neither a decision_function nor predict_proba, so there is nothing to "
            f"calibrate. Remove `{CALIBRATE}`."
        )


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
    known = sorted({*known, CALIBRATE})
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
