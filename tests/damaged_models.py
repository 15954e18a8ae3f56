"""Damage ONNX files at random, load and ask them; run as a process of its own, which a crash would end.

    python tests/damaged_models.py FOLDER FIRST_SEED N_DAMAGED

Every file of the folder that ends in .onnx is damaged in turn. Prints how often one was refused and how often it
answered. Anything but `BundleError` ends the process: a crash, another exception, an answer that is none.
"""

import sys
from pathlib import Path

import numpy as np

from emobench.bundles.session import Session
from emobench.errors import BundleError


def spoilt(data, rng):
    """Return bytes of which some are changed, in one of six ways."""
    data = bytearray(data)
    kind = rng.integers(6)
    if kind == 5:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.integers(1, 6)):
        at, n = int(rng.integers(len(data))), int(rng.choice([1, 4, 8]))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + n] = rng.bytes(n)
        elif kind == 2:  # what numbers and lengths are easily mistaken for
            data[at : at + n] = [b"\xff", b"\x00", b"\x7f"][rng.integers(3)] * n
        elif kind == 3:
            other = int(rng.integers(len(data)))
            data[at : at + n] = data[other : other + n]
        else:
            del data[at : at + n]
    return bytes(data)


def main(folder, first_seed, n_damaged):
    files = [path.read_bytes() for path in sorted(Path(folder).glob("*.onnx"))]
    n_refused = n_answered = 0
    for seed in range(first_seed, first_seed + n_damaged):
        rng = np.random.default_rng(seed)
        try:
            session = Session(spoilt(files[seed % len(files)], rng), 5)
            if session.n_features > 1000:
                raise BundleError("not the features that the bundle has")
            X = rng.normal(scale=3, size=(20, session.n_features)).astype(np.float32)
            labels, probabilities = session.predict(X)
        except BundleError:
            n_refused += 1
            continue
        assert set(labels) <= set(range(5)), f"seed {seed}: {labels}"
        assert probabilities is None or np.isfinite(probabilities).all(), f"seed {seed}: {probabilities}"
        n_answered += 1
    print(n_refused, n_answered)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
