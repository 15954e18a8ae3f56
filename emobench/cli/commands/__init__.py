"""The commands, a module for each group; what they need is imported when one is called."""

# ruff: noqa: I001  (the order is that of --help)
from emobench.cli.frame import app
from emobench.cli.commands import start
from emobench.cli.commands import runs
from emobench.cli.commands import premium
from emobench.cli.commands import compare
from emobench.cli.commands import report
from emobench.cli.commands import prediction
from emobench.cli.commands import latency
from emobench.cli.commands import stress
from emobench.cli.commands import registries
from emobench.cli.commands import data
from emobench.cli.commands import store

__all__ = [
    "app",
    "compare",
    "data",
    "latency",
    "prediction",
    "premium",
    "registries",
    "report",
    "runs",
    "start",
    "store",
    "stress",
]
