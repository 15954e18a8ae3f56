"""An experiment: a config met with its corpora. Which folds, which jobs, under which names; no model is fitted here.

Every job is identified by what its result depends on, so that a run can be continued anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emobench import models
from emobench.audio.decoding import hash_file
from emobench.config.schema import CorpusConfig, ModelConfig, ProtocolConfig, RunConfig
from emobench.corpora import CorpusSpec, get_corpus
from emobench.errors import ConfigError, SplitError
from emobench.features import FeatureSpec, FeatureTable, feature_key, get_features
from emobench.files import check_writable, digest
from emobench.metrics import get_metric
from emobench.protocols import Fold, Labels, ProtocolSpec, get_protocol
from emobench.protocols.certificate import certify, check_classes, rows_fingerprint
from emobench.protocols.duplicates import find_pairs
from emobench.protocols.folds import inner_folds, make_folds
from emobench.registry import Row, plain
from emobench.reporter import Reporter
from emobench.running.datasets import Dataset, extract, open_dataset, plan_dataset, settled
from emobench.running.evaluation import Job, StressPlan, TuningPlan, derive_seed
from emobench.statistics.differences import describe_pairs
from emobench.stresses import Change, all_changes, get_stress

PRUNED = 0.8  # share of the inner fits that pruning leaves, roughly
FRAMES_GAIN = 60  # how much less a number of frames costs than one of a vector: networks pool over time early


@dataclass(frozen=True)
class Entry:
    """One line of a leaderboard: a model of the config, as it is or tuned (`n_trials` above 0)."""

    name: str
    model: ModelConfig
    n_trials: int = 0
    inner_splits: int = 0

    @property
    def is_tuned(self) -> bool:
        return self.n_trials > 0

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What an entry's results depend on, for job keys: never its name."""
        row = models.get_model(self.model.name)
        space = models.describe_space(models.search_space(row, self.model.params))
        tuning = {"n_trials": self.n_trials, "inner_splits": self.inner_splits, "version": models.TUNING_VERSION}
        return {
            **plain(models.describe(row, self.model.params)),
            **row.origin_key(),
            **({"tuning": {**tuning, "space": plain(space)}} if self.is_tuned else {}),
        }

    def can_see(self, features: FeatureSpec) -> bool:
        """Return whether the model takes features of this kind: a vector, or frames over time."""
        row = models.get_model(self.model.name)
        return features.form in models.takes(row, self.model.params)

    def describe(self) -> dict[str, Any]:
        """Return the entry as ``run.json`` has it."""
        return {**self.identity, "tuned": self.is_tuned}


def list_entries(config: RunConfig) -> list[Entry]:
    """Return the lines of the leaderboard: each model as it is, then tuned where the config tunes it."""
    tuning = config.tuning
    found = []
    for model in config.models:
        found.append(Entry(model.entry, model))
        space = models.search_space(models.get_model(model.name), model.params)
        n_trials = tuning.trials_of(model) if tuning and space else 0
        if tuning and n_trials:
            found.append(Entry(f"{model.entry}-tuned", model, n_trials, tuning.inner_splits))
    return found


@dataclass(frozen=True)
class Experiment:
    """A config met with its corpora.

    Attributes
    ----------
    features : mapping of str to FeatureSpec
        By their names in results, in the config's order.
    datasets : tuple of Dataset
        One for each corpus of the config, in its order.
    tables : mapping of (corpus, features) to FeatureTable
        Empty where it is only planned.
    folds : mapping of (corpus, protocol) to list of Fold
    certificates : tuple of dict
        The proof that nothing leaks, one for each corpus and protocol.
    duplicates : mapping of corpus to list of (utterance, utterance)
        Identical audio under two names.
    remarks : tuple of str
        What the person should know about the figures.
    """

    config: RunConfig
    features: Mapping[str, FeatureSpec]
    datasets: tuple[Dataset, ...]
    tables: Mapping[tuple[str, str], FeatureTable]
    folds: Mapping[tuple[str, str], list[Fold]]
    certificates: tuple[dict[str, Any], ...]
    duplicates: Mapping[str, list[tuple[str, str]]]
    remarks: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """Name of the run; see `run_name`."""
        return run_name(self.config, self.datasets)

    @cached_property
    def feature_keys(self) -> dict[str, str]:
        """Key in the store of each feature set."""
        return {name: feature_key(spec, mono=self.config.audio.mono) for name, spec in self.features.items()}

    def dataset(self, corpus: str) -> Dataset:
        """Return the dataset that result rows call `corpus`."""
        return next(dataset for dataset in self.datasets if dataset.name == corpus)

    def certificate(self, corpus: str, protocol: str) -> dict[str, Any]:
        """Return the leakage certificate of a corpus under a protocol."""
        return next(c for c in self.certificates if (c["corpus"], c["protocol"]) == (corpus, protocol))

    def jobs(self) -> list[Job]:
        """Return every job, in the order of the leaderboard's tables."""
        return [
            self._job(dataset, features, entry, protocol, repeat, fold, proof)
            for dataset in self.datasets
            for features, spec in self.features.items()
            for protocol in self.config.protocols
            for entry in self._seeing(spec)
            for repeat in range(self.config.repeats)
            for fold, proof in zip(
                self.folds[dataset.name, protocol.label],
                self.certificate(dataset.name, protocol.label)["folds"],
                strict=True,
            )
        ]

    def fits(self) -> list[Job]:
        """Return the fit of every entry on everything, which becomes its bundle."""
        return [
            self._job(dataset, features, entry, None, 0, fold, proof)
            for dataset in self.datasets
            for fold, proof in [_whole(dataset)]
            for features, spec in self.features.items()
            for entry in self._seeing(spec)
        ]

    def _seeing(self, spec: FeatureSpec) -> list[Entry]:
        """Return the entries whose model takes features of this kind."""
        return [entry for entry in self._entries if entry.can_see(spec)]

    @cached_property
    def _entries(self) -> list[Entry]:
        return list_entries(self.config)

    def _job(
        self,
        dataset: Dataset,
        features: str,
        entry: Entry,
        protocol: ProtocolConfig | None,
        repeat: int,
        fold: Fold,
        proof: Mapping[str, Any],
    ) -> Job:
        """Return a job on a fold whose parts have the fingerprints ``train`` and ``test`` of its proof."""
        model = entry.model
        identity = {
            **entry.identity,
            "corpus": dataset.fingerprint,
            "features": self.features[features].specification(),
            "train": proof["train"],
            "test": proof["test"],
            "repeat": repeat,
            "seed": self.config.seed,
        }
        key = digest({**identity, "feature_key": self.feature_keys[features]})[:32]
        return Job(
            key=key,
            corpus=dataset.name,
            features=features,
            entry=entry.name,
            model=model.name,
            params=model.params,
            protocol=protocol.label if protocol else "",
            waives=get_protocol(protocol.name).shares(dataset.labels) if protocol else (),
            repeat=repeat,
            fold=fold.index,
            random_state=derive_seed(identity),
            train=fold.train,
            test=fold.test,
            tuning=TuningPlan(entry.n_trials, entry.inner_splits, f"{key}.db") if entry.is_tuned else None,
            n_permutations=self._n_permutations(features, protocol),
            stress=self._stress(features, protocol),
        )

    def _n_permutations(self, features: str, protocol: ProtocolConfig | None) -> int:
        """Return how often blocks of features are shuffled: those that have names, on speakers that were held out."""
        asked = self.config.importance
        is_held_out = protocol is not None and not get_protocol(protocol.name).is_leaky
        return asked.n_permutations if asked and is_held_out and self.features[features].columns() else 0

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What recordings are stressed by; nothing where the config does not ask."""
        asked = self.config.stress
        return tuple(all_changes(asked.stresses, seed=self.config.seed)) if asked else ()

    def _stress(self, features: str, protocol: ProtocolConfig | None) -> StressPlan | None:
        """Return what a job is asked about stressed recordings: only where speakers are held out."""
        is_held_out = protocol is not None and not get_protocol(protocol.name).is_leaky
        if not self.changes or not is_held_out or self.features[features].is_read:
            return None
        return StressPlan(tuple(change.key for change in self.changes))

    def cost_s(self, job: Job) -> float:
        """Estimate a job's seconds from its model's cost on six folds of 800 × 40."""
        spec = self.features[job.features]
        size = spec.n_features / 40 / (FRAMES_GAIN if spec.form == "frames" else 1)
        fit_s = models.cost(models.get_model(job.model), job.params) / 6 * len(job.train) / 800 * size
        return fit_s * count_fits(job)


def prepare(
    config: RunConfig,
    *,
    reporter: Reporter,
    pool: Callable[[], Any] | None = None,
    n_workers: int = 1,
    output: Path | None = None,
) -> Experiment:
    """Open the corpora of a config, extract its features, and split and certify every corpus by every protocol.

    Parameters
    ----------
    pool : callable, optional
        Returns the workers, and is called only when something must be computed. Without it the experiment is only
        planned: nothing is made or decoded, and hashes of files stand for those of samples.
    output : path, optional
        Folder of all runs: it must not lie inside a corpus, and takes the list of unusable recordings.

    Raises
    ------
    ConfigError, DataError, SplitError, LeakageError
        If the comparison cannot be made, or would not be honest.
    StorageError
        If the feature store cannot be written.
    """
    for row in used_rows(config):
        row.check_targets()
    features = {item.label: item.open() for item in config.features}
    datasets: list[Dataset] = []
    for remark in config.remarks:
        reporter.warn(remark)
    for corpus in config.corpora:
        if pool is None:
            dataset = plan_dataset(corpus, output=output)
            dataset, _, found = settled(config, dataset)
            dataset = replace(dataset, remarks=(*dataset.remarks, *found))
        else:
            dataset = open_dataset(corpus, n_jobs=n_workers, reporter=reporter, output=output)
        if dataset.name in [other.name for other in datasets]:
            raise ConfigError(
                f"Corpus {dataset.name!r} stands twice in `corpora`, one in place of another. Remove one."
            )
        for remark in dataset.remarks:
            reporter.warn(remark)
        datasets.append(dataset)
    remarks = [*config.remarks, *(remark for dataset in datasets for remark in dataset.remarks)]
    n_told = len(remarks)
    remarks += _unseen(config, features) + _uncompared(config, features)
    for dataset in datasets:  # from names and labels alone, before any audio is read
        for protocol in config.protocols:
            remarks += _make_folds(config, dataset, protocol)[1]
    tables: dict[tuple[str, str], FeatureTable] = {}
    if pool is not None:
        if output is not None:
            check_writable(output)
        excluded = output and output / run_name(config, datasets) / "excluded.csv"
        datasets, tables, found = extract(
            config, list(features.values()), datasets, pool=pool, excluded=excluded, reporter=reporter
        )
        remarks += found
    folds, certificates, duplicates = {}, [], {}
    for dataset, corpus in zip(datasets, config.corpora, strict=True):
        duplicates[dataset.name] = find_pairs(dataset.labels)
        remarks += [f"{dataset.name}: identical audio under two names: {a} = {b}" for a, b in duplicates[dataset.name]]
        for protocol in config.protocols:
            made = folds[dataset.name, protocol.label] = _make_folds(config, dataset, protocol)[0]
            certificate = _certify(config, corpus, dataset, protocol, made)
            certificates.append({"corpus": dataset.name, **certificate})
    remarks += _unnamed(config, features) + _unstressed(config, features)
    for remark in dict.fromkeys(remarks[n_told:]):
        reporter.warn(remark)
    return Experiment(
        config, features, tuple(datasets), tables, folds, tuple(certificates), duplicates, tuple(dict.fromkeys(remarks))
    )


def _whole(dataset: Dataset) -> tuple[Fold, dict[str, str]]:
    """Return the fold that trains on everything and tests nothing, with the fingerprints of its parts."""
    fold = Fold(0, -1, np.arange(len(dataset.utterances)), np.arange(0))
    ids = dataset.labels.ids
    return fold, {"train": rows_fingerprint(ids, fold.train), "test": rows_fingerprint(ids, fold.test)}


def _unseen(config: RunConfig, features: Mapping[str, FeatureSpec]) -> list[str]:
    """Return a remark for each entry and feature set that do not fit; refuse a config of which nothing is left."""
    pairs = [(entry, spec) for entry in list_entries(config) for spec in features.values() if not entry.is_tuned]
    unseen = [
        f"{entry.name} cannot see {spec.name}, which is {kind}: no jobs"
        for entry, spec in pairs
        if not entry.can_see(spec) and (kind := "frames over time" if spec.form == "frames" else "a vector")
    ]
    if len(unseen) == len(pairs):
        raise ConfigError(f"No model of this config can see its features. {unseen[0]}. Change `models` or `features`.")
    return unseen


def _uncompared(config: RunConfig, features: Mapping[str, FeatureSpec]) -> list[str]:
    """Return a remark on each feature set that so many entries see that not every two of them are compared."""
    entries = list_entries(config)
    counts = {name: sum(entry.can_see(spec) for entry in entries) for name, spec in features.items()}
    return [f"{name}: {note}" for name, count in counts.items() if (note := describe_pairs(count))]


def _unnamed(config: RunConfig, features: Mapping[str, FeatureSpec]) -> list[str]:
    """Return a remark for each feature set whose importance is asked for, and whose numbers have no names."""
    unnamed = [spec.name for spec in features.values() if not spec.columns()]
    return [f"{name}: no importance, because its numbers have no names" for name in unnamed if config.importance]


def _unstressed(config: RunConfig, features: Mapping[str, FeatureSpec]) -> list[str]:
    """Return a remark for each feature set that cannot be computed of stressed recordings, where that is asked for."""
    read = [spec.name for spec in features.values() if spec.is_read]
    return [f"{name}: no stress, because another program made its numbers" for name in read if config.stress]


def run_name(config: RunConfig, datasets: Sequence[Dataset]) -> str:
    """Return a run's name: the config's, and a hash of what it resolves to on the corpora that are really used."""
    without = {"corpora", "job_timeout_s", "latency", "stress"}  # what changes no result
    settings = {key: value for key, value in portable(config).items() if key not in without}
    settings["audio"] |= {"max_silence": "accept"}  # names are from before that became `on_silence`
    content = {
        "config": settings,
        "corpora": {dataset.name: dataset.fingerprint for dataset in datasets},
        **({"plugins": plugins} if (plugins := plugin_rows(config)) else {}),
    }
    return f"{config.name}-{digest(content)[:8]}"


def used_rows(config: RunConfig) -> list[Row]:
    """Return the rows of all tables that a config names."""
    return [
        *(get_corpus(row.name) for row in config.corpora),
        *(get_features(row.name) for row in config.features),
        *(row for model in config.models for row, _ in models.with_members(models.get_model(model.name), model.params)),
        *(get_protocol(row.name) for row in config.protocols),
        *(get_metric(name) for name in config.metrics),
        *(get_stress(name) for name in (config.stress.stresses if config.stress else ())),
    ]


def plugin_rows(config: RunConfig) -> dict[str, str]:
    """Return the rows of plug-in files that a config uses, ``"model logreg"``, with the hash of each one's file."""
    return {f"{row.kind} {row.name}": row.plugin for row in used_rows(config) if row.plugin}


def portable(config: RunConfig) -> dict[str, Any]:
    """Return a config as plain data without this machine's paths: a file has its name, and a split its hash."""
    content = config.model_dump(mode="json", exclude={"corpora": {"__all__": {"root"}}})
    for row in content["corpora"]:
        row |= {name: Path(row[name]).name for name in _paths(get_corpus(row["name"]), row)}
    files: list[tuple[FeatureSpec | ProtocolSpec, dict[str, Any]]] = [
        (get_protocol(row["name"]), row) for row in content["protocols"]
    ]
    files += [(get_features(row["name"]), row) for row in content["features"] if isinstance(row, dict)]
    for spec, row in files:
        row |= {name: f"{Path(row[name]).name} {hash_file(row[name])[:16]}" for name in _paths(spec, row)}
    return content


def _paths(row: CorpusSpec | FeatureSpec | ProtocolSpec, given: Mapping[str, Any]) -> list[str]:
    """Return the options of a row that are paths and stand in an item of a config."""
    return [name for name, option in row.options.items() if option.type is Path and name in given]


def _make_folds(config: RunConfig, dataset: Dataset, protocol: ProtocolConfig) -> tuple[list[Fold], list[str]]:
    """Split a dataset, and return remarks on its folds; refuse a training part that lacks a class."""
    folds = make_folds(protocol.name, dataset.labels, options=protocol.options, seed=config.seed)
    allow_missing = config.allow_missing_class
    return folds, check_classes(
        dataset.labels, folds, dataset.classes, protocol=protocol.label, allow_missing=allow_missing
    )


def _certify(
    config: RunConfig, corpus: CorpusConfig, dataset: Dataset, protocol: ProtocolConfig, folds: list[Fold]
) -> dict[str, Any]:
    """Return the certificate of a dataset's folds, those of tuning inside them included."""
    waives = get_protocol(protocol.name).waives
    certificate = certify(dataset.labels, folds, protocol=protocol.label, waives=waives)
    certificate["look_alike_speakers"] = [list(pair) for pair in dataset.look_alike_speakers]
    certificate["distinct"] = corpus.distinct
    certificate["exclude"] = corpus.exclude
    certificate["dropped"] = [
        {"utterance": f"{dataset.name}/{path}", "reason": reason} for path, reason in dataset.dropped
    ]
    if config.tuning:
        for proof, fold in zip(certificate["folds"], folds, strict=True):
            proof["inner"] = _certify_inner(config, dataset.labels, fold, protocol)
    return certificate


def _certify_inner(config: RunConfig, labels: Labels, fold: Fold, protocol: ProtocolConfig) -> dict[str, Any]:
    """Prove of a training part that its folds for tuning share no speaker and hold no test utterance."""
    assert config.tuning is not None
    inside = labels.take(fold.train)
    name = f"tuning inside {protocol.label}, fold {fold.index}"
    try:
        folds = inner_folds(inside.speakers, inside.sexes, config.tuning.inner_splits)
    except SplitError as error:
        raise SplitError(f"Tuning inside {protocol.label!r}, fold {fold.index}: {error}") from None
    certificate = certify(inside, folds, protocol=name)
    classes = sorted(set(inside.emotions))
    check_classes(inside, folds, classes, protocol=name, allow_missing=config.allow_missing_class)
    return {"n_splits": len(folds), "fingerprint": certificate["folds_fingerprint"], "shared_speakers": 0}


def count_jobs(jobs: Sequence[Job]) -> str:
    """Return the number of jobs in words, and how many of them are final fits."""
    n_fits = sum(not len(job.test) for job in jobs)
    return f"{len(jobs)} jobs" + (f" ({n_fits} of them final fits on everything)" if n_fits else "")


def count_fits(job: Job) -> float:
    """Return roughly how often a job fits its model: tuning fits every trial on all inner folds but those pruned."""
    n_inner = job.tuning.n_trials * (job.tuning.inner_splits - 1) if job.tuning else 0
    return 1 + n_inner * PRUNED


def unique(jobs: Sequence[Job]) -> list[Job]:
    """Return one job per key: two protocols may have a fold in common."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.key, job)
    return list(first.values())
