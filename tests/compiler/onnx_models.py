# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models for the tests, and ONNX Runtime to hold them against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tlc.graph import Graph
from tlc.reference_float import run_float, session

FLOAT = onnx.TensorProto.FLOAT
Array = NDArray[Any]


class Builder:
    """Collects nodes and initializers; every method gives the name of what it adds."""

    def __init__(self, shape: Sequence[int | str | None], *, opset: int = 17, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", FLOAT, shape)]

    def input(self, name: str, shape: Sequence[int | str | None], kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, data: Any, name: str = "") -> str:
        array = np.asarray(data)
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(
            numpy_helper.from_array(array.astype(np.float32) if array.dtype == float else array, name)
        )
        return name

    def random(self, *shape: int, scale: float = 1.0, name: str = "") -> str:
        return self.constant((scale * self.rng.standard_normal(shape)).astype(np.float32), name)

    def node(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        domain = attributes.pop("domain", "")
        outputs = attributes.pop("outputs", [output])
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=f"n_{output}", domain=domain, **attributes))
        return output

    def conv(self, x: str, out: int, channels: int, *kernel: int, bias: bool = True, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        inputs = [x, self.random(out, channels // groups, *kernel)]
        if bias:
            inputs.append(self.random(out))
        return self.node("Conv", inputs, **attributes)

    def batch_norm(self, x: str, channels: int) -> str:
        r = self.rng
        parameters = [r.uniform(0.5, 2, channels), r.standard_normal(channels), r.standard_normal(channels)]
        parameters.append(r.uniform(0.3, 3, channels))
        return self.node(
            "BatchNormalization", [x, *(self.constant(p.astype(np.float32)) for p in parameters)], epsilon=1e-3
        )

    def model(self, *outputs: str) -> bytes:
        infos = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.initializers)
        domains = {"": self.opset} | {n.domain: 1 for n in self.nodes if n.domain}
        opsets = [helper.make_opsetid(d, v) for d, v in domains.items()]
        # In old IR versions the initializers had to be inputs too.
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def run_onnx(model: bytes, *inputs: Array) -> list[Array]:
    """A model of batch 1 on several samples, one by one."""
    runner = session(model)
    names = [value.name for value in runner.get_inputs()]
    rows = [
        runner.run(None, {n: x[i : i + 1] for n, x in zip(names, inputs, strict=True)}) for i in range(len(inputs[0]))
    ]
    return [np.concatenate([row[k] for row in rows]) for k in range(len(rows[0]))]


def run_graph(graph: Graph, *inputs: Array) -> list[Array]:
    """A graph on several samples at once, in the file's layouts."""
    feed = {}
    for name, x in zip(graph.inputs, inputs, strict=True):
        tensor = graph[name]
        assert tensor.origin is not None
        feed[name] = tensor.origin.from_file(x, tensor.shape)
    result = run_float(graph, feed)
    values = []
    for name in graph.outputs:
        origin = graph[name].origin
        assert origin is not None
        values.append(origin.to_file(result[name]))
    return values


def samples(shape: Sequence[int], count: int = 3, seed: int = 1) -> Array:
    """(count, *shape[1:]) of normal random numbers."""
    return np.random.default_rng(seed).standard_normal((count, *shape[1:])).astype(np.float32)


def operators(graph: Graph) -> list[str]:
    """What the nodes are, in order."""
    return [node.op for node in graph.nodes]
