#!/usr/bin/env python3
"""How `voice` and the defaults of `logistic` and `knn` were chosen, and what came of it.

Everything is chosen on actors 01-12 of RAVDESS, leaving one speaker out: `choose` shows the finished set, its blocks
and the neighbours of its constants. `report` tells what it is worth on the folds of EmoBox and on actors 13-24 apart.

usage: voice_choice.py RAVDESS [--step choose|costs|report] [--models logistic,svm,knn,mlp,xgboost]
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from sklearn.metrics import log_loss, recall_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from emobench.audio.decoding import read_audio, resample
from emobench.corpora import get_corpus
from emobench.errors import resolve
from emobench.features import FEATURES
from emobench.features.extraction import keep_freed_memory, vectorise
from emobench.features.voice import BLOCKS, NAMES, SR, functionals, pitch, spectrum, speech
from emobench.features.voice.cycles import measure_cycles
from emobench.models import build, get_model
from emobench.protocols.folds import EMOBOX_FOLDS

FIVE = ("calm", "happy", "sad", "angry", "fearful")
EIGHT = (*FIVE, "neutral", "disgust", "surprised")
VOICE = FEATURES["voice"]
SEEDS = (0, 1, 2)
GRIDS = {
    "logistic": ("C", (0.001, 0.003, 0.01, 0.03, 0.1)),
    "knn": ("n_neighbors", (5, 9, 15, 25, 41)),
}
CONSTANTS = (
    (spectrum, "FLOOR", (1e-7, 1e-6, 1e-5, 1e-4)),
    (functionals, "ACTIVE_DB", (-50, -40, -30)),
    (pitch, "_UNVOICED", (0.35, 0.45, 0.55)),
    (pitch, "_OCTAVE_COST", (0.0, 0.01, 0.03)),
    (pitch, "_JUMP_COST", (0.2, 0.35, 0.6)),
    (functionals, "_LEAST_PERTURBATION", (1e-3, 3e-3, 1e-2)),
)


class Corpus:
    """The recordings of RAVDESS at 16 kHz, with speaker and emotion of each."""

    def __init__(self, root):
        utterances = resolve(get_corpus("ravdess").scan)(root).utterances
        self.speakers = np.array([utterance.speaker for utterance in utterances])
        self.emotions = np.array([utterance.emotion for utterance in utterances])
        recordings = [read_audio(Path(root) / utterance.path) for utterance in utterances]
        self.signals = [resample(one.signal, one.sr, SR) for one in recordings]
        self.mfcc40_stats = np.array(
            [vectorise(FEATURES["mfcc40_stats"], one.signal, one.sr, path="") for one in recordings]
        )
        self.is_chosen_on = self.speakers <= "12"

    def vectors(self, rows):
        """Return X with the rows that are wanted; the others are 0."""
        X = np.zeros((len(self.signals), len(NAMES)), dtype=np.float32)
        for row in np.flatnonzero(rows):
            X[row] = VOICE(self.signals[row])
        return X

    def levels_db(self):
        """Return the level of the active speech of each recording, below full scale."""
        measured = (speech.activity(speech.high_pass(signal)) for signal in self.signals)
        return np.array([10 * np.log10(power[is_active].mean()) for power, is_active in measured])


def score(corpus, X, emotions, rows, model, *, folds="loso", seed=0, **params):
    """Return UAR and, where the model has probabilities, log-loss, of the pooled predictions on unheard speakers."""
    rows = rows & np.isin(corpus.emotions, emotions)
    y, speakers = corpus.emotions[rows], corpus.speakers[rows]
    fold_of = {f"{actor:02d}": fold for fold, actors in enumerate(EMOBOX_FOLDS) for actor in actors}
    groups = speakers if folds == "loso" else [fold_of[speaker] for speaker in speakers]
    estimator = build(get_model(model), params, random_state=seed)
    if not hasattr(estimator, "predict_proba"):
        y_pred = cross_val_predict(estimator, X[rows], y, groups=groups, cv=LeaveOneGroupOut())
        return recall_score(y, y_pred, average="macro"), np.nan
    proba = cross_val_predict(estimator, X[rows], y, groups=groups, cv=LeaveOneGroupOut(), method="predict_proba")
    y_pred = np.unique(y)[proba.argmax(axis=1)]
    return recall_score(y, y_pred, average="macro"), log_loss(y, proba)


def line(corpus, X, what, columns=slice(None)):
    """Print what a set of columns is worth on the actors that everything is chosen on."""
    X = X[:, columns]
    found = {
        (model, len(emotions)): score(corpus, X, emotions, corpus.is_chosen_on, model)
        for model, emotions in product(("logistic", "svm"), (FIVE, EIGHT))
    }
    uars = " | ".join(f"{uar:.3f}" for uar, _ in found.values())
    losses = " | ".join(f"{found['logistic', k][1]:.3f}" for k in (5, 8))
    mean = np.mean([uar for uar, _ in found.values()])
    print(f"| {what} | {X.shape[1]} | {uars} | {mean:.3f} | {losses} |", flush=True)


HEAD = """
| actors 01-12, loso | numbers | logistic 5 | 8 | svm 5 | 8 | mean UAR | log-loss 5 | 8 |
|---|---|---|---|---|---|---|---|---|"""


def choose(corpus):
    X = corpus.vectors(corpus.is_chosen_on)
    print("| model | parameter | UAR 5 | UAR 8 | log-loss 5 | log-loss 8 |\n|---|---|---|---|---|---|")
    for model, (name, values) in GRIDS.items():
        for value in values:
            found = [score(corpus, X, some, corpus.is_chosen_on, model, **{name: value}) for some in (FIVE, EIGHT)]
            uars, losses = zip(*found, strict=True)
            numbers = " | ".join(f"{one:.3f}" for one in (*uars, *losses))
            print(f"| {model} | {name} = {value} | {numbers} |", flush=True)

    print(HEAD)
    line(corpus, X, "all")
    block_of = np.repeat(list(BLOCKS), [len(block.names) for block in BLOCKS.values()])
    for block in BLOCKS:
        line(corpus, X, f"`{block}` alone", block_of == block)
    for block in BLOCKS:
        line(corpus, X, f"all but `{block}`", block_of != block)
    for part in ("active", "voiced", "unvoiced"):
        line(corpus, X, f"all but what is of {part} frames", [f".{part}." not in name for name in NAMES])

    print(HEAD)
    for module, name, values in CONSTANTS:
        default = getattr(module, name)
        for value in values:
            setattr(module, name, value)
            pitch._tables.cache_clear()
            line(corpus, corpus.vectors(corpus.is_chosen_on), f"{name.strip('_')} = {value}")
        setattr(module, name, default)
    pitch._tables.cache_clear()


def report(corpus, models):
    everyone = np.ones(len(corpus.signals), dtype=bool)
    X = corpus.vectors(everyone)
    levels_db = corpus.levels_db()
    raw = X + np.outer(levels_db, [_per_decibel(name) for name in NAMES])
    tables = {"`voice`": X, "`voice`, level as recorded": raw, "`mfcc40_stats`": corpus.mfcc40_stats}
    print("\n| features | model | emotions | emobox-6fold, 24 actors | loso, actors 01-12 | loso, actors 13-24 |")
    print("|---|---|---|---|---|---|")
    halves = (("emobox", everyone), ("loso", corpus.is_chosen_on), ("loso", ~corpus.is_chosen_on))
    for (features, vectors), model, emotions in product(tables.items(), models, (FIVE, EIGHT)):
        if vectors is not X and model not in {"logistic", "svm"}:
            continue
        cells = []
        for folds, rows in halves:
            seeds = SEEDS if model == "mlp" else SEEDS[:1]  # the others give the same for any seed
            uars = [score(corpus, vectors, emotions, rows, model, folds=folds, seed=seed)[0] for seed in seeds]
            cells.append(f"{np.mean(uars):.3f}" + (f" ± {np.std(uars, ddof=1):.3f}" if len(uars) > 1 else ""))
        print(f"| {features} | {model} | {len(emotions)} | {' | '.join(cells)} |", flush=True)


def _per_decibel(name):
    """Return by how much a number grows when the level does by 1 dB."""
    neper = np.log(10) / 10
    row, statistic = name.split(".")[0], name.split(".")[-1]
    if statistic not in {"mean", "p05", "p50", "p95"}:
        return 0.0
    return {"level": 1.0, "mfcc00": neper * spectrum.N_MELS**0.5}.get(row, neper if row.startswith("mel") else 0.0)


def costs(corpus):
    """Print what each step takes, on average over every 20th recording."""
    keep_freed_memory()
    signals = corpus.signals[::20]
    spoken = [speech.active_speech(signal) for signal in signals]
    frames = [VOICE.extract_frames(signal) for signal in signals]
    tracks = [functionals.Track(one) for one in frames]
    f0_hz = [pitch.track_pitch(one).f0_hz for one in spoken]
    steps = {
        "filter, trimming, level": (speech.active_speech, signals),
        "pitch, harmonicity": (pitch.track_pitch, spoken),
        "cycles": (lambda pair: measure_cycles(*pair), list(zip(spoken, f0_hz, strict=True))),
        "spectrum": (spectrum.describe_spectrum, spoken),
        "split into rows and parts": (functionals.Track, frames),
        **{f"`{name}`": (block.compute, tracks) for name, block in BLOCKS.items()},
    }
    print("\n| step | ms a clip |\n|---|---|")
    for what, (function, inputs) in steps.items():
        taken = []
        for _ in range(3):
            started = time.process_time()
            for one in inputs:
                function(one)
            taken.append(time.process_time() - started)
        print(f"| {what} | {1000 * min(taken) / len(inputs):.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ravdess", type=Path)
    parser.add_argument("--step", choices=["choose", "report", "costs"])
    parser.add_argument("--models", default="logistic,svm,knn,mlp,xgboost")
    arguments = parser.parse_args()
    corpus = Corpus(arguments.ravdess)
    if arguments.step in (None, "choose"):
        choose(corpus)
    if arguments.step in (None, "costs"):
        costs(corpus)
    if arguments.step in (None, "report"):
        report(corpus, arguments.models.split(","))
