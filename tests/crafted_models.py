"""ONNX files that somebody might send: well made, damaged, and made to harm."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

N_FEATURES = N_CLASSES = 4


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


FEATURES = value("features", TensorProto.FLOAT, ["n", N_FEATURES])
LABEL = value("label", TensorProto.INT64, ["n"])
PROBABILITIES = value("probabilities", TensorProto.FLOAT, ["n", N_CLASSES])


def model(nodes, tensors=(), *, inputs=(FEATURES,), outputs=(LABEL,), opsets=(("", 18),), functions=()):
    """Return a model of any nodes."""
    graph = helper.make_graph(list(nodes), "crafted", list(inputs), list(outputs), list(tensors))
    opsets = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def linear():
    """Return a well made model: softmax of a linear map, and the best class."""
    weights = np.random.default_rng(0).normal(size=(N_FEATURES, N_CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    return model(nodes, [numpy_helper.from_array(weights, "weights")], outputs=(LABEL, PROBABILITIES))


def _best(source="features"):
    return helper.make_node("ArgMax", [source], ["label"], axis=1, keepdims=0)


def loop(n_iterations):
    """Return a model that runs a loop before it answers."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            value("count", TensorProto.INT64, []),
            value("going", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, None),
        ],
        [value("goes_on", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
    )
    constants = [
        numpy_helper.from_array(np.array(n_iterations), "times"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    return model(
        [helper.make_node("Loop", ["times", "yes", "features"], ["looped"], body=body), _best("looped")], constants
    )


def growing():
    """Return a model that asks for 4 TB."""
    shape = numpy_helper.from_array(np.array([10**12]), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["features", "sum"], ["moved"]),
        _best("moved"),
    ]
    return model(nodes, [shape])


def external(location="secret.bin"):
    """Return a model whose weights are said to be in another file."""
    crafted = linear()
    tensor = crafted.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return crafted


def in_a_body(change):
    """Return a model with a loop whose body has a node or tensor that must not be."""
    crafted = loop(1)
    (body,) = (attribute.g for attribute in crafted.graph.node[0].attribute if attribute.name == "body")
    change(body)
    return crafted


def _foreign(body):
    body.node[0].domain = "com.microsoft"


def _external(body):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "more")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    body.initializer.append(tensor)


def huge(dims):
    crafted = linear()
    del crafted.graph.initializer[0].dims[:]
    crafted.graph.initializer[0].dims.extend(dims)
    return crafted


def function():
    """Return a model that calls a function of its own."""
    own = helper.make_function(
        "mine", "Mine", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    nodes = [helper.make_node("Mine", ["features"], ["same"], domain="mine"), _best("same")]
    return model(nodes, opsets=(("", 18), ("mine", 1)), functions=[own])


def hidden_function():
    """Return a model that declares no other domain, and has a function in ONNX's own."""
    own = helper.make_function(
        "", "Identity", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    return model([helper.make_node("Identity", ["features"], ["same"]), _best("same")], functions=[own])


def sparse():
    crafted = linear()
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    crafted.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**9]))
    return crafted


def text():
    """Return a model that answers in strings."""
    labels = helper.make_tensor("words", TensorProto.STRING, [N_FEATURES], [b"a", b"b", b"c", b"d"])
    nodes = [
        helper.make_node("ArgMax", ["features"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["words", "best"], ["label"]),
    ]
    return model(nodes, [labels], outputs=(value("label", TensorProto.STRING, ["n"]),))


def constant(label, kind=np.int64, shape=(1,)):
    """Return a model that answers the same whatever it is asked, also how many rows there are."""
    nodes = [helper.make_node("Identity", ["always"], ["label"])]
    return model(nodes, [numpy_helper.from_array(np.full(shape, label, kind), "always")])


def cycle():
    nodes = [helper.make_node("Add", ["features", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"]), _best("b")]
    return model(nodes)


def not_a_number():
    crafted = linear()
    crafted.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((N_FEATURES, N_CLASSES), np.nan, np.float32), "weights")
    )
    return crafted


# Refused before ONNX Runtime sees a byte → what the message says.
REFUSED_BY_THE_GATE = {
    "external data": (external, "in another file"),
    "external data, absolute": (lambda: external("/etc/passwd"), "in another file"),
    "external data in a body": (lambda: in_a_body(_external), "in another file"),
    "foreign operator": (
        lambda: model([helper.make_node("Gelu", ["features"], ["same"], domain="com.microsoft"), _best("same")]),
        "com.microsoft",
    ),
    "foreign operator in a body": (lambda: in_a_body(_foreign), "com.microsoft"),
    "foreign opset": (lambda: model([_best()], opsets=(("", 18), ("com.microsoft", 1))), "com.microsoft"),
    "function": (function, "mine|functions"),
    "function in ONNX's domain": (hidden_function, "functions"),
    "sparse tensor": (sparse, "sparse"),
    "tensor of 4 TB": (lambda: huge([10**12]), "more than the file holds"),
    "tensor of overflowing shape": (lambda: huge([2**62, 2**62]), "more than the file holds"),
    "tensor of negative shape": (lambda: huge([-1, -12]), "more than the file holds"),
    "no graph": (lambda: model([]), "no graph"),
}

# Refused when they are loaded or asked.
REFUSED_BY_THE_SESSION = {
    "other input": (lambda: model([_best("x")], inputs=(value("x", TensorProto.FLOAT, ["n", 4]),)), "takes and gives"),
    "input of any width": (
        lambda: model([_best()], inputs=(value("features", TensorProto.FLOAT, ["n", "d"]),)),
        "takes and gives",
    ),
    "two inputs": (
        lambda: model([_best()], inputs=(FEATURES, value("more", TensorProto.FLOAT, ["n", 4]))),
        "takes and gives",
    ),
    "input of doubles": (
        lambda: model([_best()], inputs=(value("features", TensorProto.DOUBLE, ["n", 4]),)),
        "takes and gives",
    ),
    "other output": (
        lambda: model(
            [helper.make_node("ArgMax", ["features"], ["answer"], axis=1, keepdims=0)],
            outputs=(value("answer", TensorProto.INT64, ["n"]),),
        ),
        "takes and gives",
    ),
    "text": (text, "takes and gives"),
    "no rows": (lambda: constant(0, shape=(0,)), "classes for each row"),
    "too many rows": (lambda: constant(0, shape=(500,)), "classes for each row"),
    "code out of range": (lambda: constant(4), "classes for each row"),
    "negative code": (lambda: constant(-1), "classes for each row"),
    "not a number": (not_a_number, "classes for each row"),
    "unknown operator": (lambda: model([helper.make_node("Nonsense", ["features"], ["label"])]), "cannot be loaded"),
    "cycle": (cycle, "cannot be loaded"),
    "shapes that do not fit": (
        lambda: model(
            [helper.make_node("MatMul", ["features", "w"], ["s"]), _best("s")],
            [numpy_helper.from_array(np.zeros((7, 3), np.float32), "w")],
        ),
        "cannot be loaded",
    ),
    "zero dimension": (
        lambda: model(
            [helper.make_node("MatMul", ["features", "w"], ["s"]), _best("s")],
            [numpy_helper.from_array(np.zeros((4, 0), np.float32), "w")],
        ),
        "cannot be loaded|fails on",
    ),
}
