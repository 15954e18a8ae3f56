"""Proof that an exported model answers as the fitted one does, on rows it knows and on rows it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.errors import NoBundleError

if TYPE_CHECKING:
    from emobench.bundles.session import Session

TOLERANCE = 1e-5
"""Largest difference between two probabilities that are held to be equal: float32 does not promise more."""

ADVICE = "Choose another model, or name a better converter in its row of MODELS."

MAX_ROWS = 1000
N_MOVES = 16


@dataclass(frozen=True)
class Parity:
    """How an exported model was compared with the fitted one.

    Attributes
    ----------
    n_rows : int
    n_ties : int
        Rows with another label, where the best two classes were equally good.
    max_difference : float or None
        Of any probability; None for a model without.
    """

    n_rows: int
    n_ties: int
    max_difference: float | None


def check_parity(model: Any, session: Session, X: np.ndarray) -> Parity:
    """Compare labels and probabilities on training rows, on the same moved by 1 %, and ten deviations away.

    Labels may differ only where the best two classes tie: where their probabilities are within `TOLERANCE` or, in a
    model without probabilities, where the fitted model itself changes its answer if features move by that share.

    Parameters
    ----------
    model : classifier or Pipeline
        Fitted on codes.
    X : float32 array of shape (n, n_features)
        Training rows, of which at most `MAX_ROWS` are used, evenly spread.

    Raises
    ------
    NoBundleError
        With the figures.
    """
    n_rows = n_ties = 0
    differences = []
    for where, rows in _rows(X):
        label, found = session.predict(rows)
        expected = np.asarray(model.predict(rows))
        is_other = label != expected
        if found is not None:
            proba = np.zeros(found.shape)
            proba[:, model.classes_] = model.predict_proba(rows)
            differences.append(float(np.abs(found - proba).max()))
            if not differences[-1] <= TOLERANCE:  # NaN included
                raise NoBundleError(
                    f"no bundle: probabilities of the fitted and the exported model differ by {differences[-1]:.1e} "
                    f"{where}; the limit is {TOLERANCE:g}. {ADVICE}"
                )
            best = np.sort(proba[is_other], axis=1)[:, -2:]
            is_tie = best[:, -1] - best[:, 0] < TOLERANCE
        else:
            is_tie = _is_undecided(model, rows[is_other])
        if not is_tie.all():
            raise NoBundleError(
                f"no bundle: {np.count_nonzero(~is_tie)} of {len(rows)} labels of the fitted and the exported model "
                f"differ {where}. {ADVICE}"
            )
        n_rows += len(rows)
        n_ties += len(is_tie)
    return Parity(n_rows, n_ties, max(differences, default=None))


def _rows(X: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows = X[np.unique(np.linspace(0, len(X) - 1, min(len(X), MAX_ROWS)).round().astype(int))]
    yield "on training rows", rows
    yield "on training rows moved by 1 %", rows * (1 + 0.01 * rng.standard_normal(rows.shape, dtype=np.float32))
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    yield "ten deviations away", mean + 10 * deviation * rng.standard_normal(rows.shape, dtype=np.float32)


def _is_undecided(model: Any, rows: np.ndarray) -> np.ndarray:
    """Return for which rows the fitted model changes its answer if features move by hardly more than they resolve."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    rng = np.random.default_rng(0)
    moves = 1 + TOLERANCE * rng.choice(np.array([-1, 1], np.float32), size=(N_MOVES, *rows.shape))
    labels = np.stack([model.predict(rows * move.astype(np.float32)) for move in moves])
    return (labels != model.predict(rows)).any(axis=0)
