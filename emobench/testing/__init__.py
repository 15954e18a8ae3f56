"""Checks that a row keeps the contract of its table: for a plug-in's tests, and for emobench's own over every table.

    from emobench.testing import check_model
    from my_rows import LOGREG

    def test_logreg():
        check_model(LOGREG)

Each raises `AssertionError` that says what is wrong.
"""

from emobench.testing.corpora import check_corpus
from emobench.testing.features import check_features
from emobench.testing.metrics import check_metric
from emobench.testing.models import check_model
from emobench.testing.networks import check_network
from emobench.testing.protocols import check_protocol
from emobench.testing.stresses import check_stress

__all__ = [
    "check_corpus",
    "check_features",
    "check_metric",
    "check_model",
    "check_network",
    "check_protocol",
    "check_stress",
]
