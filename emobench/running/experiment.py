"""An experiment: a config met with its corpora. Which folds, which jobs, under which names; nothing is computed here.

Every job is identified by what its result depends on, so that a run can be continued anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emobench import models
from emobench.audio.decoding import hash_file
from emobench.config.schema import ModelConfig, ProtocolConfig, RunConfig
from emobench.config.yaml import LoadedConfig
from emobench.errors import SplitError
from emobench.features import feature_key, get_features
from emobench.features.store import FeatureTable
from emobench.files import digest
from emobench.protocols import Fold, Labels, get_protocol
from emobench.protocols.certificate import certify, check_classes, find_duplicates, rows_fingerprint
from emobench.protocols.folds import inner_folds, make_folds
from emobench.running.datasets import Dataset
from emobench.running.evaluation import Job, TuningPlan, derive_seed

PRUNED = 0.8  # share of the inner fits that pruning leaves, roughly


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

    def identity(self) -> dict[str, Any]:
        """Return what an entry's results depend on, for job keys: never its name."""
        row = models.get_model(self.model.name)
        tuning = {"n_trials": self.n_trials, "inner_splits": self.inner_splits, "version": models.TUNING_VERSION}
        return {
            "model": self.model.name,
            "model_version": row.version,
            "params": plain(models.settings(row, self.model.params)),
            **({"tuning": {**tuning, "space": plain(models.describe_space(row))}} if self.is_tuned else {}),
        }

    def describe(self) -> dict[str, Any]:
        """Return the entry as ``run.json`` has it."""
        return {**self.identity(), "tuned": self.is_tuned}


@dataclass
class Experiment:
    """The parts of a run as they come to be: corpora, features, folds.

    Attributes
    ----------
    datasets : list of Dataset
        One for each corpus of the config, in its order.
    tables : dict of (corpus, features) to FeatureTable
    folds : dict of (corpus, protocol) to list of Fold
    certificates : list of dict
        The proof that nothing leaks, one for each corpus and protocol.
    duplicates : dict of corpus to list of (utterance, utterance)
        Identical audio under two names.
    remarks : list of str
        What the person should know about the figures.
    """

    loaded: LoadedConfig
    datasets: list[Dataset] = field(default_factory=list)
    tables: dict[tuple[str, str], FeatureTable] = field(default_factory=dict)
    folds: dict[tuple[str, str], list[Fold]] = field(default_factory=dict)
    certificates: list[dict[str, Any]] = field(default_factory=list)
    duplicates: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def config(self) -> RunConfig:
        return self.loaded.config

    @property
    def name(self) -> str:
        """Run name: the config's, and a hash of what it resolves to on the corpora that are really used."""
        without = {"corpora", "job_timeout_s", "latency"}  # what changes no result
        content = {
            "config": {k: v for k, v in self.portable_config().items() if k not in without},
            "corpora": {dataset.name: dataset.fingerprint for dataset in self.datasets},
        }
        return f"{self.loaded.name}-{digest(content)[:8]}"

    def portable_config(self) -> dict[str, Any]:
        """Return the resolved config without this machine's paths: a file has its name, and a split its hash."""
        content = self.config.model_dump(mode="json", exclude={"corpora": {"__all__": {"root"}}})
        for row in content["corpora"]:
            row["path"] = row["path"] and Path(row["path"]).name
        for row in content["protocols"]:
            if row["path"]:
                path = self.loaded.resolve_path(row["path"])
                row["path"] = f"{path.name} {hash_file(path)[:16]}"
        return content

    def dataset(self, corpus: str) -> Dataset:
        """Return the dataset that result rows call `corpus`."""
        return next(dataset for dataset in self.datasets if dataset.name == corpus)

    def labels(self, corpus: str) -> Labels:
        """Return what a protocol may look at: from the audio where it has been read, else from the files."""
        table = next((table for (name, _), table in self.tables.items() if name == corpus), None)
        return table.labels() if table else self.dataset(corpus).labels()

    def certificate(self, corpus: str, protocol: str) -> dict[str, Any]:
        """Return the leakage certificate of a corpus under a protocol."""
        return next(c for c in self.certificates if (c["corpus"], c["protocol"]) == (corpus, protocol))

    def check_folds(self) -> None:
        """Refuse folds that cannot work, from names and labels alone, before any audio is read.

        Raises
        ------
        SplitError
            If a protocol cannot split a corpus, or a training part lacks a class.
        """
        for dataset in self.datasets:
            for protocol in self.config.protocols:
                _, remarks = self._checked_folds(dataset, protocol)
                self.remarks += remarks

    def split(self) -> None:
        """Split every corpus by every protocol, and certify every fold before anything is fitted.

        Raises
        ------
        CorpusError
            If identical audio has two speakers or two emotions.
        SplitError, LeakageError
        """
        self.folds, self.certificates = {}, []
        for dataset in self.datasets:
            labels = self.labels(dataset.name)
            self.duplicates[dataset.name] = find_duplicates(labels)
            for first, second in self.duplicates[dataset.name]:
                self.remarks.append(f"{dataset.name}: identical audio under two names: {first} = {second}")
            for protocol in self.config.protocols:
                folds, _ = self._checked_folds(dataset, protocol)
                waives = get_protocol(protocol.name).waives
                certificate = certify(labels, folds, protocol=protocol.label, waives=waives)
                if self.config.tuning:
                    for proof, fold in zip(certificate["folds"], folds, strict=True):
                        proof["inner"] = self._certify_inner(labels, fold, protocol)
                self.certificates.append({"corpus": dataset.name, **certificate})
                self.folds[dataset.name, protocol.label] = folds

    def entries(self) -> list[Entry]:
        """Return the lines of the leaderboard: each model as it is, then tuned where the config tunes it."""
        tuning = self.config.tuning
        found = []
        for model in self.config.models:
            found.append(Entry(model.entry, model))
            n_trials = tuning.trials_of(model) if tuning and models.get_model(model.name).space else 0
            if tuning and n_trials:
                found.append(Entry(f"{model.entry}-tuned", model, n_trials, tuning.inner_splits))
        return found

    def _certify_inner(self, labels: Labels, fold: Fold, protocol: ProtocolConfig) -> dict[str, Any]:
        """Prove of a training part that its folds for tuning share no speaker and hold no test utterance."""
        assert self.config.tuning is not None
        inside = labels.take(fold.train)
        try:
            folds = inner_folds(inside.speakers, inside.sexes, self.config.tuning.inner_splits)
        except SplitError as error:
            raise SplitError(f"Tuning inside {protocol.label!r}, fold {fold.index}: {error}") from None
        name = f"tuning inside {protocol.label}, fold {fold.index}"
        certificate = certify(inside, folds, protocol=name)
        check_classes(
            inside, folds, sorted(set(inside.emotions)), protocol=name, allow_missing=self.config.allow_missing_class
        )
        return {"n_splits": len(folds), "fingerprint": certificate["folds_fingerprint"], "shared_speakers": 0}

    def _checked_folds(self, dataset: Dataset, protocol: ProtocolConfig) -> tuple[list[Fold], list[str]]:
        labels, options = self.labels(dataset.name), dict(protocol.options)
        if options.get("path"):
            options["path"] = str(self.loaded.resolve_path(options["path"]))
        folds = make_folds(protocol.name, labels, options=options, seed=self.config.seed)
        allow_missing = self.config.allow_missing_class
        return folds, check_classes(
            labels, folds, dataset.classes, protocol=protocol.label, allow_missing=allow_missing
        )

    def jobs(self) -> list[Job]:
        """Return every job, in the order of the leaderboard's tables."""
        return [
            self._job(dataset, features, entry, protocol, repeat, fold)
            for dataset in self.datasets
            for features in self.config.features
            for protocol in self.config.protocols
            for entry in self.entries()
            for repeat in range(self.config.repeats)
            for fold in self.folds[dataset.name, protocol.label]
        ]

    def fits(self) -> list[Job]:
        """Return the fit of every entry on everything, which becomes its bundle."""
        return [
            self._job(dataset, features, entry, None, 0, Fold(0, -1, np.arange(len(dataset.utterances)), np.arange(0)))
            for dataset in self.datasets
            for features in self.config.features
            for entry in self.entries()
        ]

    def _job(
        self,
        dataset: Dataset,
        features: str,
        entry: Entry,
        protocol: ProtocolConfig | None,
        repeat: int,
        fold: Fold,
    ) -> Job:
        table, model = self.tables[dataset.name, features], entry.model
        identity = {
            **entry.identity(),
            "corpus": dataset.fingerprint,
            "features": table.spec.specification(),
            "train": rows_fingerprint(table.ids, fold.train),
            "test": rows_fingerprint(table.ids, fold.test),
            "repeat": repeat,
            "seed": self.config.seed,
        }
        key = digest({**identity, "feature_key": table.key})[:32]
        return Job(
            key=key,
            corpus=dataset.name,
            features=features,
            entry=entry.name,
            model=model.name,
            params=model.params,
            protocol=protocol.label if protocol else "",
            waives=get_protocol(protocol.name).waives if protocol else (),
            repeat=repeat,
            fold=fold.index,
            random_state=derive_seed(identity),
            train=fold.train,
            test=fold.test,
            tuning=TuningPlan(entry.n_trials, entry.inner_splits, f"{key}.db") if entry.is_tuned else None,
        )

    def cost_s(self, job: Job) -> float:
        """Estimate a job's seconds from its model's cost on six folds of 800 × 40."""
        n_features = self.tables[job.corpus, job.features].spec.n_features
        fit_s = models.get_model(job.model).cost / 6 * len(job.train) / 800 * n_features / 40
        n_inner = job.tuning.n_trials * (job.tuning.inner_splits - 1) if job.tuning else 0
        return fit_s * (1 + n_inner * PRUNED)


def blank_table(dataset: Dataset, features: str, config: RunConfig) -> FeatureTable:
    """Return the table of a dataset before its features are there: names and labels, `X` of no columns."""
    spec = get_features(features)
    code = {emotion: index for index, emotion in enumerate(dataset.classes)}
    return FeatureTable(
        X=np.empty((len(dataset.utterances), 0), np.float32),
        y=np.array([code[utterance.emotion] for utterance in dataset.utterances], int),
        classes=dataset.classes,
        utterances=dataset.utterances,
        audio=dataset.clips,
        clips=dataset.clips,
        spec=spec,
        key=feature_key(spec, mono=config.audio.mono),
    )


def unique(jobs: Sequence[Job]) -> list[Job]:
    """Return one job per key: two protocols may have a fold in common."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.key, job)
    return list(first.values())


def plain(value: Any) -> Any:
    """Return a parameter as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
