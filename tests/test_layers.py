"""The layers of the design: a module imports from lower ones, or from its own without a cycle."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import emobench

SOURCE = Path(emobench.__file__).parent
LAYERS = {  # each room of the package; docs/architecture.md says what happens in it
    0: "__init__ errors reporter",
    1: "registry files audio execution",
    2: "corpora protocols metrics stresses results",
    3: "features models statistics",
    4: "config bundles reports comparison",
    5: "prediction",
    6: "running",
    7: "cli testing",
    8: "__main__",
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
    "onnx",
    "onnxruntime",
    "skl2onnx",
}


def top(path):
    """Return the module or package directly under emobench that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """Yield the dotted name below emobench of every module of it that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emobench":
            inner = node.module.split(".")[1:]
            for alias in node.names:
                is_module = (SOURCE.joinpath(*inner, f"{alias.name}.py")).exists() or SOURCE.joinpath(
                    *inner, alias.name, "__init__.py"
                ).exists()
                yield ".".join([*inner, alias.name] if is_module else inner) or "__init__"
        elif isinstance(node, ast.Import):
            yield from (name.name[9:] for name in node.names if name.name.startswith("emobench."))


def files():
    return sorted(SOURCE.rglob("*.py"))


def test_every_module_stands_in_one_layer():
    assert {top(path) for path in files()} == set(LAYER_OF)


def test_modules_import_from_lower_layers_or_their_own_room():
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in files()
        for name in imports(path)
        if (room := name.split(".")[0]) != top(path) and LAYER_OF[room] >= LAYER_OF[top(path)]
    ]
    assert wrong == []


def test_modules_of_a_room_import_each_other_without_a_cycle():
    graph = {}
    for path in files():
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = {name for name in imports(path) if name.split(".")[0] == top(path)} - {module}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_the_network_module_names_tensorflow():
    """Everything else works on a machine without it."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"tensorflow", "keras"} & {name.split(".")[0] for name in names}:
                assert path.name in ("keras_classifier.py", "networks.py")


def test_import_emobench_is_light():
    code = f"import sys, emobench; print(sorted({HEAVY} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
