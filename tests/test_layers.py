"""The layers of the design: a module imports from lower ones, or from its own without a cycle."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import emobench

SOURCE = Path(emobench.__file__).parent
LAYERS = {
    0: "__init__ errors",
    1: "audio extraction streaming corpora features shards metrics splits results models execution cluster reporter "
    "figures",
    2: "config store inventory dataset tuning statistics comparability comparison premium slices leaderboard "
    "pages reports",
    3: "evaluation bundle bundles inference probe latency experiment records verification",
    4: "planning runner",
    5: "console commands cli __main__",
}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules.split()}
HEAVY = {
    "matplotlib",
    "jinja2",
    "numpy",
    "pandas",
    "sklearn",
    "scipy",
    "librosa",
    "tensorflow",
    "keras",
    "xgboost",
    "optuna",
    "pyarrow",
    "skops",
}


def top(path):
    """Return the module or package directly under emobench that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """Yield every emobench module that a file imports, anywhere in it, with its dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emobench":
            inner = node.module.split(".")[1:]
            yield from [".".join(inner)] if inner else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (name.name[9:] for name in node.names if name.name.startswith("emobench."))


def files():
    return sorted(SOURCE.rglob("*.py"))


def test_every_module_stands_in_one_layer():
    assert {top(path) for path in files()} == set(LAYER_OF)


def test_modules_import_from_lower_layers_only():
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in files()
        for name in imports(path)
        if name.split(".")[0] in LAYER_OF and LAYER_OF[name.split(".")[0]] > LAYER_OF[top(path)]
    ]
    assert wrong == []


def test_modules_of_a_layer_import_each_other_without_a_cycle():
    graph = {}
    for path in files():
        graph.setdefault(top(path), set()).update(name.split(".")[0] for name in imports(path))
    known = {module: {name for name in names if name in LAYER_OF and name != module} for module, names in graph.items()}
    assert len(list(TopologicalSorter(known).static_order())) == len(LAYER_OF)  # raises CycleError


def test_only_the_network_module_names_tensorflow():
    """Everything else works on a machine without it."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"tensorflow", "keras"} & {name.split(".")[0] for name in names}:
                assert path.name == "cnn.py"


def test_import_emobench_is_light():
    code = f"import sys, emobench; print(sorted({HEAVY} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
