"""What is checked of the rows of every table."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping
from typing import Any

from emobench.registry import Row


def check_row(row: Row, kind: str) -> None:
    """Check that a row is one of its table, and that what it names can be loaded.

    Raises
    ------
    AssertionError
    PluginError
        If a function or class of the row cannot be loaded.
    """
    assert isinstance(row, Row), f"{type(row).__name__} is no row of a table"
    assert row.kind == kind, f"{row.name!r} is a {row.kind}, not a {kind}"
    assert not row.problem(), row.problem()
    assert row.title, f"{row.name!r} has no title"
    row.check_targets()
    try:
        pickle.loads(pickle.dumps(row))
    except Exception as error:  # pickle raises nearly anything
        raise AssertionError(f"{row.name!r} cannot be sent to a worker process: {error}") from error


def run_checks(checks: Mapping[str, Callable[..., None]], skip: Collection[str], *arguments: Any) -> None:
    """Run every check but those that are skipped by name."""
    unknown = set(skip) - set(checks)
    assert not unknown, f"no check is called {', '.join(sorted(unknown))}; there are {', '.join(checks)}"
    for name, check in checks.items():
        if name not in skip:
            check(*arguments)
