"""Labels and codes: the one LabelEncoder that everything of a dataset shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.preprocessing import LabelEncoder


def fit_encoder(classes: Sequence[str]) -> LabelEncoder:
    """Return a LabelEncoder fitted on the declared emotions: code i is the i-th of them in alphabetical order."""
    from sklearn.preprocessing import LabelEncoder

    return LabelEncoder().fit(list(classes))
