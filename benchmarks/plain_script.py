#!/usr/bin/env python3
"""What one would write by hand: librosa, scikit-learn, XGBoost and Keras in one loop, without emobench.

It is the baseline of the whole run's speed, and the oracle of its figures: given the ``folds.csv`` of a run it uses
the same folds.

usage: plain_script.py RAVDESS [--folds FOLDS.csv] [--protocol group-kfold] [--models svm,xgboost,mlp,cnn] [--seed 0]
"""

import argparse
import os
import time
from pathlib import Path

started = time.perf_counter()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import librosa
import numpy as np
import pandas as pd
from sklearn.metrics import recall_score
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.svm import SVC

EMOTIONS = {"02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful"}


def extract(path):
    signal, sr = librosa.load(path)
    return librosa.feature.mfcc(y=signal, sr=sr, n_mfcc=40).mean(axis=1)


def predict_cnn(X_train, y_train, X_test, seed):
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((X_train.shape[1], 1)),
            layers.Conv1D(128, 5, padding="same", activation="relu"),
            layers.Dropout(0.1),
            layers.MaxPooling1D(8),
            layers.Conv1D(128, 5, padding="same", activation="relu"),
            layers.Dropout(0.1),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    scaler = StandardScaler().fit(X_train)
    model.fit(scaler.transform(X_train)[..., None], y_train, epochs=50, batch_size=32, verbose=0)
    return model.predict(scaler.transform(X_test)[..., None], verbose=0).argmax(axis=1)


def predict(name, X_train, y_train, X_test, seed):
    if name == "cnn":
        return predict_cnn(X_train, y_train, X_test, seed)
    if name == "svm":
        model = make_pipeline(StandardScaler(), SVC(C=10))
    elif name == "mlp":
        model = make_pipeline(StandardScaler(), MLPClassifier((256, 128), max_iter=500, random_state=seed))
    else:
        from xgboost import XGBClassifier

        model = XGBClassifier(n_estimators=300, max_depth=4, random_state=seed)
    return model.fit(X_train, y_train).predict(X_test)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("ravdess", type=Path)
parser.add_argument("--folds", type=Path, help="folds.csv of a run; else scikit-learn's GroupKFold(6)")
parser.add_argument("--protocol", default="group-kfold", help="which protocol of the folds.csv")
parser.add_argument("--models", default="svm,xgboost,mlp,cnn")
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
print(f"{'imports':10s} {time.perf_counter() - started:6.1f} s")

clock = time.perf_counter()
clips = sorted(path for path in arguments.ravdess.glob("Actor_*/*.*") if path.stem.split("-")[2] in EMOTIONS)
X = np.array([extract(path) for path in clips])
y = LabelEncoder().fit_transform([EMOTIONS[path.stem.split("-")[2]] for path in clips])
speakers = [path.stem[-2:] for path in clips]
print(f"{'features':10s} {time.perf_counter() - clock:6.1f} s  {len(clips)} clips")

if arguments.folds:
    table = pd.read_csv(arguments.folds).query("protocol == @arguments.protocol and repeat == 0")
    fold_of = dict(zip(table["utterance"], table["fold"], strict=True))
    number = np.array([fold_of[f"ravdess/{path.parent.name}/{path.name}"] for path in clips])
    folds = [(np.flatnonzero(number != fold), np.flatnonzero(number == fold)) for fold in np.unique(number)]
else:
    folds = list(GroupKFold(6).split(X, y, speakers))

for name in arguments.models.split(","):
    clock = time.perf_counter()
    y_pred = np.empty_like(y)
    for train, test in folds:
        y_pred[test] = predict(name, X[train], y[train], X[test], arguments.seed)
    uar = recall_score(y, y_pred, average="macro")
    print(f"{name:10s} {time.perf_counter() - clock:6.1f} s  UAR {uar:.6f}")
print(f"{'total':10s} {time.perf_counter() - started:6.1f} s")
