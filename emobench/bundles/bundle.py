"""Bundles: a fitted model with all it needs to predict from audio, in a folder or one zip of it, without pickle.

A bundle is ``bundle.json`` beside the fitted numbers: a skops file for scikit-learn's models, UBJ for XGBoost, npz for
the network's weights and for the scaler. ``bundle.json`` holds the SHA-256 sum of every other file and of its own
content, and all of them are checked before another library sees a byte. That proves that nothing was damaged; it
proves no author. So what the files may hold is closed as well: fixed names, fixed types, finite arrays whose shape fits
their size and each other, and a fitted pipeline of exactly the classes that the row of `MODELS` names, which answers.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import stat
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from emobench.errors import BundleError, ConfigError, listing
from emobench.files import published, storage_errors, write_bytes
from emobench.models import ModelSpec, check_parameters, get_model, missing_packages
from emobench.models.compiled import compiled
from emobench.registry import resolve
from emobench.results.environment import versions

if TYPE_CHECKING:
    import numpy as np
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
SCALER = "scaler.npz"
MODEL_FILES = {"skops": "model.skops", "xgboost": "model.ubj", "cnn": "weights.npz"}  # by ModelSpec.storage
FILES = frozenset({MANIFEST, SCALER, *MODEL_FILES.values()})

MAX_ATTEMPTS = 10  # at reading a folder that is replaced again and again
MAX_MANIFEST_BYTES = 1_000_000
MAX_BYTES = 2**30
MAX_RATIO = 100  # of a zip's content to its size; weights are hardly compressed
MAX_FEATURES = 1_000_000

# What skops may build besides the public scikit-learn and NumPy types that it trusts itself.
TRUSTED = (
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",  # see `_check_trees`
)
# How skops may build it. Left out is every way to name a function or a method, where its past holes were
# (CVE-2024-37065, CVE-2025-54412, CVE-2025-54413), and older protocols, which keep older code.
LOADERS = frozenset(
    {"DictNode", "JsonNode", "ListNode", "NdArrayNode", "ObjectNode", "RandomStateNode", "SetNode", "TreeNode"}
    | {"TupleNode", "TypeNode"}
)
SKOPS_PROTOCOL = 2
MAX_SCHEMA_BYTES = 50_000_000

SCALER_ARRAYS = ("mean_", "n_samples_seen_", "scale_", "var_")

ZIP_MAGIC = b"PK\x03\x04"
MAGIC = (
    (b"\x80", "a pickle"),
    (b"\x78", "a compressed joblib file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
    (ZIP_MAGIC, "a ZIP archive (.keras, .pt, .npz or .skops)"),
    (b"\x93NUMPY", "a NumPy array"),
)

# What the standard library raises on damaged archives, encrypted ones, and methods that it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, NotImplementedError, struct.error)

SAVE_AGAIN = "Copy the bundle again, or save the model again."


class VersionWarning(UserWarning):
    """A bundle was saved with another version of a library than this one."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A fitted model and all it needs to predict from audio.

    Attributes
    ----------
    estimator : Pipeline
        As `emobench.models.build` makes it, fitted on the integer codes of `classes`; its ``classes_`` are the codes
        it has seen, which may have gaps.
    classes : tuple of str
        Labels in the order of the run's `LabelEncoder`; see `label_encoder`.
    entry, model : str
        Name on the leaderboard, and row of `MODELS`.
    params : dict
        Parameters that differ from the row's; lists where the estimator has tuples.
    model_version : int
        `ModelSpec.version` it was fitted with.
    features : dict
        `FeatureSpec.specification` of its input.
    sr : int
        Rate in Hz that the features are computed at.
    trained_on : dict
        Corpus, its fingerprint, numbers of utterances and speakers.
    scores : dict or list
        Of the run it comes from; NaN is kept as None.
    versions : dict of str to str
        Library versions; `save_bundle` adds those that matter for loading.
    checksum : str
        Of ``bundle.json``, and so of everything, where the bundle was loaded; it names the bundle.
    """

    estimator: Pipeline
    classes: tuple[str, ...]
    entry: str
    model: str
    features: dict[str, Any]
    sr: int
    params: dict[str, Any] = field(default_factory=dict)
    model_version: int = 1
    trained_on: dict[str, Any] = field(default_factory=dict)
    scores: Any = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    checksum: str = ""


def save_bundle(folder: str | os.PathLike, bundle: Bundle) -> None:
    """Write a bundle as a folder that appears whole or not at all.

    An older bundle of that name is replaced. Only one process at a time may save to one folder.

    Raises
    ------
    BundleError
        If the bundle contradicts itself, could not be loaded again, or the folder holds something else.
    StorageError
        If the disk does not take it; an older bundle is then still there.
    """
    folder = Path(os.path.realpath(folder))
    try:
        files = _encode(bundle)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionWarning)  # a bundle loaded under a warning may be saved again
            _decode(files)
        _check_replaceable(folder)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    with storage_errors(folder):
        _publish(folder, files)


def load_bundle(path: str | os.PathLike) -> Bundle:
    """Read and check a bundle, a folder or a zip; see the module's docstring for what is checked.

    Raises
    ------
    BundleError
        If anything is missing, damaged, unknown or unsafe, or a package is not installed.

    Warns
    -----
    VersionWarning
        If it was saved with another version of scikit-learn or of the model.
    """
    path = Path(path)
    try:
        return _decode(_read(path))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def verify_bundle(path: str | os.PathLike) -> dict[str, Any]:
    """Check every sum of a bundle without building its model; return what ``bundle.json`` says.

    Raises
    ------
    BundleError
        If a file is missing, damaged or unknown.
    """
    return _read_verified(Path(path))[0].model_dump()


def export_bundle(source: str | os.PathLike, target: str | os.PathLike, *, as_zip: bool = False) -> None:
    """Copy a bundle, a folder or a zip, as either; the same bundle gives the same bytes.

    An older bundle in the target's place is replaced.

    Raises
    ------
    BundleError
        If the source is damaged, or the target is something else than a bundle.
    StorageError
        If the disk does not take it.
    """
    _, files = _read_verified(Path(source))
    target = Path(os.path.realpath(target))
    try:
        _check_replaceable_file(target) if as_zip else _check_replaceable(target)
    except BundleError as error:
        raise BundleError(f"{target}: {error}") from error
    if as_zip:
        write_bytes(target, _zip(files))
    else:
        with storage_errors(target):
            _publish(target, files)


def _read_verified(path: Path) -> tuple[_Manifest, dict[str, bytes]]:
    try:
        files = _read(path)
        manifest = _parse_manifest(files[MANIFEST])
        _check_files(manifest, _row(manifest.model), files)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    return manifest, files


# -- bundle.json -----------------------------------------------------------------------------------------------------


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    n_bytes: Annotated[int, Field(ge=0)]


class _Manifest(BaseModel):
    """What `bundle.json` holds."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]
    checksum: str
    entry: Annotated[str, Field(min_length=1)]
    model: Annotated[str, Field(min_length=1)]
    model_version: Annotated[int, Field(ge=1)]
    params: dict[str, JsonValue]
    storage: Literal["skops", "xgboost", "cnn"]
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    codes: Annotated[list[int], Field(min_length=1)]
    n_features: Annotated[int, Field(ge=1, le=MAX_FEATURES)]
    features: dict[str, JsonValue]
    sr: Annotated[int, Field(gt=0)]
    trained_on: dict[str, JsonValue]
    scores: list[JsonValue] | dict[str, JsonValue]
    versions: dict[str, str]
    files: dict[str, _File]


def _render(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of `bundle.json`: readable, and the same for the same content."""
    content = {name: value for name, value in content.items() if name != "checksum"}
    content["checksum"] = hashlib.sha256(_json(content)).hexdigest()
    return _json(content)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _parse_manifest(data: bytes) -> _Manifest:
    """Return the checked content of `bundle.json`."""
    try:
        content = json.loads(data.decode("ascii"), parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where an object must be")
        rendered = _render(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{MANIFEST} must be the JSON that emobench writes. It is not: {error}. {SAVE_AGAIN}"
        ) from error
    version = content.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST} must have a schema version up to {SCHEMA_VERSION}. Got {version}: a newer emobench wrote it. "
            "Upgrade emobench."
        )
    # One content has one rendering, so that no changed byte goes unnoticed.
    if data != rendered:
        raise BundleError(f"{MANIFEST} must be as it was saved. Its checksum says that it was changed. {SAVE_AGAIN}")
    try:
        manifest = _Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{MANIFEST} does not hold what it must:\n{_problems(error)}\n{SAVE_AGAIN}") from error
    _check_classes(manifest.classes, manifest.codes)
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _problems(error: ValidationError) -> str:
    return listing([f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()])


def _check_classes(classes: Sequence[str], codes: Sequence[int]) -> None:
    if list(classes) != sorted(set(classes)):
        raise BundleError(f"classes must be sorted and without repeats, as LabelEncoder has them. Got {list(classes)}.")
    if list(codes) != sorted(set(codes)) or not 0 <= codes[0] <= codes[-1] < len(classes):
        raise BundleError(
            f"A bundle's estimator must be fitted on the codes 0 to {len(classes) - 1} of its classes. "
            f"Got {list(codes)[:10]}. Encode the labels before fitting."
        )


def _plain(value: Any, where: str) -> Any:
    """Return a value as JSON has it: NumPy scalars and tuples become Python's, NaN becomes None in scores."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value) and where.startswith("scores"):
        return None
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise BundleError(f"{where} of a bundle must be plain, finite data that JSON can hold. Got {value!r}.")


# -- between a bundle and the bytes of its files -------------------------------------------------------------------


def _encode(bundle: Bundle) -> dict[str, bytes]:
    """Return the content of a bundle's files by name."""
    spec = _row(bundle.model)
    _check_steps(bundle.estimator, spec)
    codes = getattr(bundle.estimator[-1], "classes_", None)
    if codes is None:
        raise BundleError("A bundle's estimator must be fitted. This one is not. Call fit(X, codes).")
    if codes.dtype.kind not in "iu":
        raise BundleError(f"A bundle's estimator must be fitted on integer codes. Got {codes[:3]}. Encode the labels.")
    n_features = getattr(bundle.estimator, "n_features_in_", None)
    if n_features is None:
        raise BundleError(
            "A bundle's estimator must know how many features it takes (n_features_in_). This one does not say. "
            "Set it in `fit`, as scikit-learn's `validate_data` does."
        )
    files = _encode_estimator(bundle.estimator, spec)
    content = {
        "schema_version": SCHEMA_VERSION,
        "entry": bundle.entry,
        "model": bundle.model,
        "model_version": bundle.model_version,
        "params": bundle.params,
        "storage": spec.storage,
        "classes": list(map(str, bundle.classes)),
        "codes": codes.tolist(),
        "n_features": n_features,
        "features": bundle.features,
        "sr": bundle.sr,
        "trained_on": bundle.trained_on,
        "scores": bundle.scores,
        "versions": versions() | bundle.versions,
        "files": {name: {"sha256": _sha256(data), "n_bytes": len(data)} for name, data in files.items()},
    }
    return {MANIFEST: _render({name: _plain(value, name) for name, value in content.items()}), **files}


def _decode(files: Mapping[str, bytes]) -> Bundle:
    """Return the bundle that the files hold, or raise `BundleError`."""
    manifest = _parse_manifest(files[MANIFEST])
    spec = _row(manifest.model)
    _check_files(manifest, spec, files)
    try:
        check_parameters(spec, manifest.params)
    except ConfigError as error:
        raise BundleError(f"params in {MANIFEST} are wrong. {error}") from error
    note = _version_note(manifest, spec)
    try:
        estimator = _decode_estimator(files, manifest, spec)
        _check_fitted(estimator, manifest, spec)
    except BundleError:
        raise
    except Exception as error:  # parsers of other projects, which raise what they like on bytes that are not theirs
        raise BundleError(
            f"{MODEL_FILES[spec.storage]} must hold a fitted {spec.name!r}. It cannot be read "
            f"({type(error).__name__}: {error}). {note or SAVE_AGAIN}"
        ) from error
    _check_answer(estimator, manifest)
    if note:
        warnings.warn(note, VersionWarning, stacklevel=3)
    return Bundle(
        estimator=estimator,
        classes=tuple(manifest.classes),
        entry=manifest.entry,
        model=manifest.model,
        params=manifest.params,
        model_version=manifest.model_version,
        features=manifest.features,
        sr=manifest.sr,
        trained_on=manifest.trained_on,
        scores=manifest.scores,
        versions=manifest.versions,
        checksum=manifest.checksum,
    )


def _row(model: str) -> ModelSpec:
    try:
        return get_model(model)
    except ConfigError as error:
        raise BundleError(f"A bundle's model must be known here. {error} Install the plug-in it comes from.") from error


def _file_names(spec: ModelSpec) -> set[str]:
    """Return the files of a bundle besides `bundle.json`; skops holds scaler and model in one."""
    has_scaler = spec.is_scaled and spec.storage != "skops"
    return {MODEL_FILES[spec.storage]} | ({SCALER} if has_scaler else set())


def _check_files(manifest: _Manifest, spec: ModelSpec, files: Mapping[str, bytes]) -> None:
    """Check names, sizes and sums of every file, and that the package that reads them is there."""
    expected = _file_names(spec)
    if manifest.storage != spec.storage or set(manifest.files) != expected:
        raise BundleError(
            f"A bundle of {spec.name!r} must hold {', '.join(sorted(expected))}. {MANIFEST} lists "
            f"{', '.join(map(repr, sorted(manifest.files))) or 'nothing'} as {manifest.storage}. {SAVE_AGAIN}"
        )
    present = set(files) - {MANIFEST}
    problems = [f"{name}: missing" for name in sorted(expected - present)]
    problems += [f"{name!r}: does not belong here" for name in sorted(present - expected)]
    for name in sorted(expected & present):
        n_bytes = len(files[name])
        if n_bytes != manifest.files[name].n_bytes:
            problems.append(f"{name}: {n_bytes} bytes instead of {manifest.files[name].n_bytes}")
        elif _sha256(files[name]) != manifest.files[name].sha256:
            problems.append(f"{name}: its SHA-256 is not the one in {MANIFEST}")
    if problems:
        raise BundleError(f"The files must be those that {MANIFEST} lists:\n{listing(problems)}\n{SAVE_AGAIN}")
    if spec.storage == "xgboost" and missing_packages(spec):
        names = ", ".join(missing_packages(spec))
        raise BundleError(f"A bundle of {spec.name!r} needs {names}, not installed here. Install {names}.")


def _version_note(manifest: _Manifest, spec: ModelSpec) -> str:
    """Return what differs between the saving and this installation and may change answers, or nothing."""
    from importlib.metadata import version

    notes = []
    saved, here = manifest.versions.get("scikit-learn", ""), version("scikit-learn")
    if spec.storage == "skops" and saved and saved.split(".")[:2] != here.split(".")[:2]:
        notes.append(f"It was saved with scikit-learn {saved}, here is {here}. Install {saved} if in doubt.")
    if manifest.model_version != spec.version:
        notes.append(
            f"It was fitted with version {manifest.model_version} of model {spec.name!r}, here is {spec.version}. "
            "Train it again to have the same."
        )
    return f"{manifest.entry}: {' '.join(notes)}" if notes else ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- between an estimator and bytes --------------------------------------------------------------------------------


def _encode_estimator(estimator: Pipeline, spec: ModelSpec) -> dict[str, bytes]:
    if spec.storage == "skops":
        import skops.io

        return {"model.skops": skops.io.dumps(estimator)}
    scaler, model = estimator.named_steps.get("scale"), estimator.named_steps["model"]
    files = {SCALER: _npz({name: getattr(scaler, name) for name in SCALER_ARRAYS})} if scaler is not None else {}
    if spec.storage == "xgboost":
        from emobench.models.boosting import booster_bytes

        return {**files, "model.ubj": booster_bytes(model)}
    from emobench.models.cnn import network_weights

    return {**files, "weights.npz": _npz(network_weights(model))}


def _decode_estimator(files: Mapping[str, bytes], manifest: _Manifest, spec: ModelSpec) -> Pipeline:
    import numpy as np
    from sklearn.pipeline import Pipeline

    data = files[MODEL_FILES[spec.storage]]
    if spec.storage == "skops":
        return _load_skops(data)
    fitted = (dict(spec.defaults) | manifest.params, np.array(manifest.codes), manifest.n_features)
    if spec.storage == "xgboost":
        from emobench.models.boosting import restore

        model = restore(*fitted, data)
    else:
        from emobench.models.cnn import restore

        model = restore(*fitted, _read_npz(data))
    scale = [("scale", _scaler(_read_npz(files[SCALER]), manifest.n_features))] if SCALER in files else []
    return Pipeline([*scale, ("model", model)])


def _load_skops(data: bytes) -> Any:
    """Build what a skops file holds, if nothing in it can run code or ask for more memory than the file has."""
    import skops.io
    from sklearn.exceptions import InconsistentVersionWarning

    for name, content in _zip_members(data).items():
        if name == "schema.json":
            _check_schema(content)
        elif name.endswith(".npy"):
            _read_npy(name, content)
        else:
            raise BundleError(f"A skops file must hold arrays and schema.json only. Got {name!r}. {SAVE_AGAIN}")
    if unsafe := sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED)):
        raise BundleError(
            f"A skops file must hold types that are safe to build. Got {', '.join(unsafe)}. "
            "Do not trust this file; a model of your own that needs them cannot be saved as a bundle."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)  # said once, by `_version_note`
        estimator = skops.io.loads(data, trusted=list(TRUSTED))
    _check_natives(estimator)
    return estimator


def _check_schema(data: bytes) -> None:
    if len(data) > MAX_SCHEMA_BYTES:
        raise BundleError(f"schema.json of a skops file must have at most {MAX_SCHEMA_BYTES} bytes. Got {len(data)}.")
    schema = json.loads(data)
    if not isinstance(schema, dict) or schema.get("protocol") != SKOPS_PROTOCOL:
        raise BundleError(f"A skops file must have protocol {SKOPS_PROTOCOL}. This one has not. {SAVE_AGAIN}")
    loaders, pending = set(), [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            loaders |= {str(node["__loader__"])} if "__loader__" in node else set()
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    if loaders - LOADERS:
        raise BundleError(
            f"A skops file must be built of plain nodes ({', '.join(sorted(LOADERS))}). "
            f"Got {', '.join(sorted(loaders - LOADERS))}. Do not trust this file."
        )


def _check_natives(estimator: Any) -> None:
    """Refuse what compiled code would follow out of its arrays into any memory."""
    import numpy as np
    from sklearn.svm._base import BaseLibSVM
    from sklearn.tree._tree import Tree

    pending, seen = [estimator], set()
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        if isinstance(item, BaseLibSVM) and hasattr(item, "support_vectors_"):
            _check_svm(item)
        if isinstance(item, Tree):
            _check_tree(item)
        elif isinstance(item, Mapping):
            pending.extend(item.values())
        elif isinstance(item, list | tuple | set) or (isinstance(item, np.ndarray) and item.dtype.hasobject):
            pending.extend(item)
        else:
            pending.extend(getattr(item, "__dict__", {}).values())


def _check_svm(model: Any) -> None:
    """Arrays of libsvm have the types and lengths that it takes them to have, in float64 and int32."""
    import numpy as np

    n_vectors, n_classes = len(model.support_vectors_), len(model.classes_)
    n_pairs = n_classes * (n_classes - 1) // 2
    n_calibrated = n_pairs if np.size(model._probA) else 0
    expected = {
        "support_": ("int32", (n_vectors,)),
        "support_vectors_": ("float64", (n_vectors, model.n_features_in_)),
        "_n_support": ("int32", (n_classes,)),
        "_dual_coef_": ("float64", (n_classes - 1, n_vectors)),
        "_intercept_": ("float64", (n_pairs,)),
        "_probA": ("float64", (n_calibrated,)),
        "_probB": ("float64", (n_calibrated,)),
    }
    arrays = {name: np.asarray(getattr(model, name)) for name in expected}
    found = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    is_plain = model.kernel in ("linear", "poly", "rbf", "sigmoid") and not model._sparse
    if found != expected or not is_plain or model._n_support.min() < 0 or model._n_support.sum() != n_vectors:
        raise BundleError(
            f"Arrays of a support vector machine must fit each other: {expected}. Got {found}, "
            f"kernel {model.kernel!r}. Do not trust this file."
        )


def _check_tree(tree: Any) -> None:
    """A node is a leaf, or comes before both its children and asks for one of the features."""
    import numpy as np

    nodes = np.arange(tree.node_count)
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    is_leaf = (left == -1) & (right == -1)
    is_split = (np.minimum(left, right) > nodes) & (np.maximum(left, right) < tree.node_count)
    is_split &= (feature >= 0) & (feature < tree.n_features)
    if not (is_leaf | is_split).all():
        raise BundleError(
            "Nodes of a decision tree must point to nodes behind them. They do not. Do not trust this file."
        )


def _zip_members(data: bytes) -> dict[str, bytes]:
    """Return the members of an uncompressed archive, none of which can be larger than the archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) != len(names) or any("/" in name or "\\" in name for name in names):
            raise BundleError(f"Members of an archive must have plain names, each once. Got {names[:5]}. {SAVE_AGAIN}")
        is_stored = all(m.compress_type == zipfile.ZIP_STORED and m.file_size == m.compress_size for m in members)
        if not is_stored or sum(member.file_size for member in members) > len(data):
            raise BundleError(f"Members of an archive must be stored uncompressed. They are not. {SAVE_AGAIN}")
        return {name: archive.read(name) for name in names}


def _read_npy(name: str, data: bytes) -> np.ndarray:
    """Return an array; refuse Python objects, numbers not finite, and a header that does not tell its size."""
    import numpy as np
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    if version not in readers:
        raise BundleError(f"{name} must be a NumPy array of format 1 or 2. Got {version}. {SAVE_AGAIN}")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise BundleError(f"{name} must hold numbers. Its header says Python objects. Do not trust this file.")
    promised, present = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if min(shape, default=0) < 0 or promised != present:
        raise BundleError(f"{name} must have the size its header says, {promised} bytes. Got {present}. {SAVE_AGAIN}")
    stream.seek(0)
    array = npy.read_array(stream, allow_pickle=False)
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise BundleError(f"{name} must hold finite numbers. It does not. {SAVE_AGAIN}")
    return array


def _npz(arrays: Mapping[str, Any]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_npz(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file by name."""
    arrays = {}
    for name, content in _zip_members(data).items():
        array = _read_npy(name, content)
        if array.dtype.kind not in "fiu":
            raise BundleError(f"{name} must hold finite numbers. Got {array.dtype}. {SAVE_AGAIN}")
        arrays[name.removesuffix(".npy")] = array
    return arrays


def _scaler(arrays: Mapping[str, np.ndarray], n_features: int) -> StandardScaler:
    from sklearn.preprocessing import StandardScaler

    shapes = {name: array.shape for name, array in arrays.items()}
    expected = {name: () if name == "n_samples_seen_" else (n_features,) for name in SCALER_ARRAYS}
    if shapes != expected or not (arrays["scale_"] > 0).all():
        raise BundleError(f"{SCALER} must hold a scaler of {n_features} features. Got {shapes}. {SAVE_AGAIN}")
    scaler = StandardScaler()
    for name, array in arrays.items():
        setattr(scaler, name, array[()])
    scaler.n_features_in_ = n_features
    return scaler


def _check_steps(estimator: Any, spec: ModelSpec) -> None:
    """Refuse anything but the pipeline that `build` makes for the row."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    expected = {"scale": StandardScaler} if spec.is_scaled else {}
    expected["model"] = resolve(spec.estimator)
    found = {name: type(step) for name, step in estimator.steps} if type(estimator) is Pipeline else type(estimator)
    if found != expected:
        raise BundleError(f"A bundle of {spec.name!r} must hold the pipeline {_names(expected)}. Got {_names(found)}.")


def _names(steps: Any) -> str:
    return " → ".join(step.__name__ for step in steps.values()) if isinstance(steps, dict) else steps.__name__


def _check_fitted(estimator: Any, manifest: _Manifest, spec: ModelSpec) -> None:
    """Refuse an estimator that is not the one `bundle.json` describes."""
    import numpy as np

    _check_steps(estimator, spec)
    own = estimator.named_steps["model"].get_params(deep=False)
    described = {
        "codes": (manifest.codes, np.asarray(estimator.classes_).tolist()),
        "n_features": (manifest.n_features, getattr(estimator, "n_features_in_", None)),
        "params": (manifest.params, _plain({name: own[name] for name in manifest.params}, "params")),
    }
    for name, (said, found) in described.items():
        if said != found:
            raise BundleError(f"{name} in {MANIFEST} must be those of the estimator, {found}. Got {said}. {SAVE_AGAIN}")


def _check_answer(estimator: Any, manifest: _Manifest) -> None:
    """Refuse an estimator that gives no answer: what is missing in it is found here, not at the first recording."""
    import numpy as np

    try:
        compiled(estimator, len(manifest.classes))(np.zeros((1, manifest.n_features), np.float32))
    except BundleError:
        raise
    except Exception as error:  # of any library, on a model that has not all its parts
        raise BundleError(
            f"The fitted model must answer. It does not ({type(error).__name__}: {error}). {SAVE_AGAIN}"
        ) from error


# -- the folder or zip on disk -------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, bytes]:
    """Return the content of every file of a bundle."""
    data = _zip_bytes(path)
    return _read_folder(path) if data is None else _unzip(data)


def _zip_bytes(path: Path) -> bytes | None:
    """Return the content of a file that is a zip with a bundle in it, as far as a look tells; else nothing."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with open(path, "rb") as file:
            if file.read(4) != ZIP_MAGIC or os.fstat(file.fileno()).st_size > MAX_BYTES:
                return None
            file.seek(0)
            data = file.read(MAX_BYTES)
        return data if MANIFEST in zipfile.ZipFile(io.BytesIO(data)).namelist() else None
    except (OSError, *ZIP_ERRORS):
        return None


def _unzip(data: bytes) -> dict[str, bytes]:
    """Return the members of an exported bundle; nothing is written anywhere."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(set(names)) != len(names) or not set(names) <= FILES:
                raise BundleError(
                    f"A zipped bundle must hold some of {', '.join(sorted(FILES))}, each once and in no folder. "
                    f"Got {', '.join(map(repr, names[:5]))}. Do not trust this file, or export the bundle again."
                )
            most = min(MAX_BYTES, MAX_RATIO * len(data))
            sizes = {member.filename: member.file_size for member in members}
            if sizes[MANIFEST] > MAX_MANIFEST_BYTES or sum(sizes.values()) > most:
                raise BundleError(
                    f"A zipped bundle must hold at most {most} bytes, {MAX_MANIFEST_BYTES} of them {MANIFEST}. It "
                    f"says {sizes}. Do not trust this file."
                )
            files = {}
            for member in members:
                with archive.open(member) as file:
                    files[member.filename] = file.read(member.file_size)
            return files
    except BundleError:
        raise
    except ZIP_ERRORS as error:
        raise BundleError(f"A zipped bundle must be whole. It is not: {error}. {SAVE_AGAIN}") from error


def _zip(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of some files, always the same for the same content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in sorted(files.items()):
            member = zipfile.ZipInfo(name)  # dated 1980
            member.external_attr = 0o644 << 16
            archive.writestr(member, data, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder; read again where it was replaced meanwhile."""
    for attempt in range(MAX_ATTEMPTS):
        before = _identity(folder)
        error = None
        try:
            files = _read_once(folder)
        except BundleError as problem:
            error = problem
        except OSError as problem:
            error = BundleError(f"It must be a readable folder with {MANIFEST}. {problem.strerror or problem}.")
        if before is not None and before == _identity(folder):
            break
        if attempt < MAX_ATTEMPTS - 1:
            time.sleep(0.01)  # a folder that is being replaced is away for a moment
    if error:
        raise error
    return files


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read_once(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise BundleError(_not_a_folder(folder))
    with os.scandir(folder) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in itertools.islice(entries, len(FILES) + 1)}
    problems = [f"{name!r}: does not belong here" for name in sorted(set(found) - FILES)]
    problems += [f"{name!r}: not a regular file" for name, status in found.items() if not stat.S_ISREG(status.st_mode)]
    if MANIFEST not in found:
        problems.append(f"{MANIFEST}: missing")
    elif found[MANIFEST].st_size > MAX_MANIFEST_BYTES:
        problems.append(f"{MANIFEST}: larger than {MAX_MANIFEST_BYTES} bytes")
    if sum(status.st_size for status in found.values()) > MAX_BYTES:
        problems.append(f"all files: larger than {MAX_BYTES} bytes")
    if problems:
        raise BundleError(
            f"A bundle must hold {MANIFEST} and the model's files only:\n{listing(problems)}\n{SAVE_AGAIN}"
        )
    return {name: _read_file(folder / name, status.st_size) for name, status in found.items()}


def _read_file(path: Path, n_bytes: int) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        return file.read(n_bytes)


def _not_a_folder(path: Path) -> str:
    """Return the refusal of something that is no folder; only its first bytes are looked at."""
    must = f"It must be a folder with {MANIFEST}, as emobench saves models (JSON, npz, UBJ and skops), or a zip of it."
    try:
        status = path.stat()
    except OSError as error:
        return f"{must} {error.strerror or error}. Check the path."
    if not stat.S_ISREG(status.st_mode):
        return f"{must} Got something else than a file or a folder. Check the path."
    if path.name in FILES:
        return f"{must} Got one file of it. Give the folder {path.parent}."
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        return f"{must} {error.strerror or error}. Check the path."
    kind = next((kind for magic, kind in MAGIC if start.startswith(magic)), "a file")
    return f"{must} Got {kind}, which is not opened since that could run code. Train the model again and save it."


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but an older bundle."""
    try:
        names = {name: (folder / name).is_dir() for name in os.listdir(folder)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise BundleError(f"A bundle must be saved as a folder. {error.strerror}. Choose another path.") from error
    others = sorted(name for name, is_folder in names.items() if is_folder or name not in FILES)
    if others:
        raise BundleError(f"A bundle must have its folder for itself. It holds {others[:3]}. Choose another folder.")


def _check_replaceable_file(path: Path) -> None:
    if path.exists() and _zip_bytes(path) is None:
        raise BundleError("An exported bundle must not replace anything but an older one. Choose another path.")


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    with published(folder, replaces=True) as new:
        for name, data in files.items():
            write_bytes(new / name, data)
