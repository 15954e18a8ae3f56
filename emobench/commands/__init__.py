"""The commands, a module for each group; what they need is imported when one is called."""

# ruff: noqa: I001  (the order is that of --help)
from emobench.commands.frame import app
from emobench.commands import runs
from emobench.commands import premium
from emobench.commands import compare
from emobench.commands import report
from emobench.commands import prediction
from emobench.commands import latency
from emobench.commands import registries
from emobench.commands import data
from emobench.commands import store

__all__ = ["app", "compare", "data", "latency", "prediction", "premium", "registries", "report", "runs", "store"]
