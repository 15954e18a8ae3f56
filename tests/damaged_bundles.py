"""Damage a saved bundle at random, load it and ask it; run as a process of its own, which a crash would end.

    python tests/damaged_bundles.py FOLDER FIRST_SEED N_DAMAGED

Prints how often it was refused and how often it answered. Anything but `BundleError` ends the process: a crash, another
exception, an answer that is none.
"""

import hashlib
import io
import json
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

from emobench.bundles import bundle as module
from emobench.errors import BundleError
from emobench.models.compiled import compiled


def damaged(files, rng):
    """Return the files with bytes of one changed; of an archive, mostly in a member whose CRC is right again."""
    names = sorted(set(files) - {"bundle.json"})
    name = names[rng.integers(len(names))]
    if name.endswith(".ubj") or rng.integers(4) == 0:
        return files | {name: spoilt(files[name], rng)}
    with zipfile.ZipFile(io.BytesIO(files[name])) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    member = list(members)[rng.integers(len(members))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for other, data in members.items():
            archive.writestr(zipfile.ZipInfo(other), spoilt(data, rng) if other == member else data)
    return files | {name: buffer.getvalue()}


def spoilt(data, rng):
    """Return bytes of which some are changed, in one of five ways."""
    data = bytearray(data)
    kind = rng.integers(5)
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
        else:  # a digit of text, as in headers and schemas, or of what looks like one
            digits = [i for i in range(max(0, at - 2000), min(len(data), at + 2000)) if 48 <= data[i] <= 57]
            if digits:
                data[digits[rng.integers(len(digits))]] = int(rng.integers(48, 58))
    return bytes(data)


def resealed(files):
    """Return the files with a bundle.json whose sums are right, as an attacker would write it."""
    content = json.loads(files["bundle.json"])
    for name in content["files"]:
        content["files"][name] = {"sha256": hashlib.sha256(files[name]).hexdigest(), "n_bytes": len(files[name])}
    return files | {"bundle.json": module._render(content)}


def main(folder, first_seed, n_damaged):
    warnings.simplefilter("ignore")
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    X = np.random.default_rng(0).normal(scale=3, size=(50, 40)).astype(np.float32)
    n_refused = n_answered = 0
    for seed in range(first_seed, first_seed + n_damaged):
        rng = np.random.default_rng(seed)
        changed, is_resealed = damaged(files, rng), rng.integers(5) > 0
        try:
            loaded = module._decode(resealed(changed) if is_resealed else changed)
            classify = compiled(loaded.estimator, len(loaded.classes))
            codes, proba = classify(X)
            alone = [classify(X[row : row + 1])[0][0] for row in range(5)]
            slow = loaded.estimator.predict(X)
        except BundleError:
            n_refused += 1
            continue
        assert is_resealed or changed == files, f"seed {seed}: damage was not noticed"
        assert set(codes) <= set(range(len(loaded.classes))), f"seed {seed}: {codes}"
        assert (codes == slow).all(), f"seed {seed}: the fast path answers otherwise"
        assert (codes[:5] == alone).all(), f"seed {seed}: a row alone has another answer"
        assert proba is None or np.isfinite(proba).all(), f"seed {seed}: {proba}"
        n_answered += 1
    print(n_refused, n_answered)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
