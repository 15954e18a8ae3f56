"""Tables of things: the one lookup that every registry uses, and plug-ins."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from emobench.errors import UnknownNameError, did_you_mean


def lookup(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """Return the row called `name` from a registry, or from a plug-in that offers it.

    Parameters
    ----------
    kind : str
        What a row is, in the singular: ``"model"``. Plug-ins are entry points of the group
        ``emobench.<kind>s`` that load to a row of the same type.
    table : mapping of str to row
        The registry.
    name : str
        Row asked for.

    Raises
    ------
    UnknownNameError
        With the nearest known name and all of them.
    """
    if name in table:
        return table[name]
    plugins = _plugins(kind)
    if name in plugins:
        return plugins[name].load()
    known = sorted({*table, *plugins})
    raise UnknownNameError(
        f"Unknown {kind} {name!r}.{did_you_mean(name, known)} Known {plural(kind)}: {', '.join(known)}."
    )


def rows(kind: str, table: Mapping[str, Any]) -> list[Any]:
    """Return every row of a registry, and behind them those of plug-ins by name."""
    plugins = _plugins(kind)
    return [*table.values(), *(plugins[name].load() for name in sorted(plugins) if name not in table)]


def _plugins(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=f"emobench.{plural(kind)}")}


def plural(kind: str) -> str:
    """Return the plural of a registry's kind: model → models, corpus → corpora."""
    return {"corpus": "corpora", "feature set": "features"}.get(kind, f"{kind}s")


def resolve(target: Any) -> Any:
    """Import what a registry row names as ``"module:attribute"``; return anything else as it is."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
