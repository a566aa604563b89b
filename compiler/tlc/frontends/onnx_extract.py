# SPDX-License-Identifier: Apache-2.0
"""The host segment of an ONNX model: what lies behind the cut, in the file's own operators.

It may hold any operator that ONNX Runtime runs. Its input is the file's tensor at the cut, in the file's layout:
:meth:`tlc.graph.Origin.to_file` turns what the device sends into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tlc.errors import ModelError
from tlc.frontends.onnx_load import captured, load_onnx
from tlc.frontends.onnx_writer import BATCH
from tlc.graph import Graph, Shape
from tlc.reference_float import session

__all__ = ["BATCH_KEY", "CUT_KEY", "extract_host"]

BATCH_KEY = "tlc.batch"
"""Metadata: ``any`` where the segment takes any number of samples at once, ``1`` where the model is bound to one."""
CUT_KEY = "tlc.cut"
"""Metadata: the file's name of the tensor at the cut."""


def extract_host(
    model: str | Path | bytes,
    graph: Graph,
    cut: str,
    shapes: Mapping[str, Shape] | None = None,
    end: str | None = None,
) -> onnx.ModelProto:
    """The part of a model that follows from one tensor.

    Args:
        model: the file that ``graph`` was read from, or its bytes.
        graph: canonical.
        cut: the name of a tensor of ``graph`` that has an origin.
        shapes: as given to :func:`tlc.frontends.onnx.read_onnx`.
        end: the name of another such tensor, with which the part ends; None: at the file's outputs.

    Returns:
        A model with one input (the file's tensor at the cut) and the file's outputs, on whose leading axes any number of
        samples may lie if its metadata say so under ``BATCH_KEY``.

    Raises:
        ModelError: the rest of the model needs more than that tensor.
    """
    origin = graph[cut].origin
    if origin is None:
        raise ModelError(
            "is not a tensor of the model file", where=f"tensor '{cut}'", remedy="see tlc plan for every cut"
        )
    proto = load_onnx(model, shapes)
    if end is not None:
        last = graph[end].origin
        assert last is not None
        del proto.graph.output[:]
        proto.graph.output.append(helper.make_tensor_value_info(last.name, onnx.TensorProto.FLOAT, last.shape))
    nodes = _following(proto.graph, origin.name)
    read = {name for node in nodes for name in captured(node)} | {value.name for value in proto.graph.output}
    initializers = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    part = helper.make_graph(
        nodes,
        f"{proto.graph.name or 'model'}_host",
        [helper.make_tensor_value_info(origin.name, onnx.TensorProto.FLOAT, origin.shape)],
        list(proto.graph.output),
        initializers,
    )
    host = helper.make_model(part, opset_imports=list(proto.opset_import), ir_version=max(proto.ir_version, 4))
    host.producer_name = "tlc"
    batched = _with_any_batch(host)
    works = _agrees(host, batched, origin.shape)
    result = batched if works else host
    helper.set_model_props(result, {BATCH_KEY: "any" if works else "1", CUT_KEY: origin.name})
    return result


def _following(graph: onnx.GraphProto, cut: str) -> list[onnx.NodeProto]:
    """The nodes that the outputs need, up to the cut."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    edges = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    wanted = [value.name for value in graph.output]
    needed: set[int] = set()
    while wanted:
        name = wanted.pop()
        if name == cut:
            continue
        if name in edges:
            raise ModelError(
                f"the rest of the model needs the input '{name}' too", where=f"cut at '{cut}'", remedy="see tlc plan"
            )
        index = makers.get(name)
        if index is not None and index not in needed:
            needed.add(index)
            wanted += captured(graph.node[index])
    return [graph.node[index] for index in sorted(needed)]


def _with_any_batch(host: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with a symbolic leading axis; whether that is right is tried afterwards."""
    result = onnx.ModelProto()
    result.CopyFrom(host)
    for value in (*result.graph.input, *result.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and dims[0].dim_value == 1:
            dims[0].dim_param = BATCH
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type == "Constant" and any(a.name == "value" for a in node.attribute):
            constants[node.output[0]] = helper.get_node_attr_value(node, "value")
    for node in result.graph.node:
        tensor = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if tensor is None:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if shape.size and shape[0] == 1:
            # -1 where it is free. Else 0, which takes the leading axis of the input.
            shape[0] = 0 if (shape == -1).any() else -1
            name = f"{node.output[0]}/any_batch"
            result.graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
    read = {name for node in result.graph.node for name in captured(node)} | {v.name for v in result.graph.output}
    kept = [tensor for tensor in result.graph.initializer if tensor.name in read]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


def _agrees(single: onnx.ModelProto, batched: onnx.ModelProto, shape: Shape, samples: int = 3) -> bool:
    """Whether several samples at once give what they give one by one."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, *shape[1:])).astype(np.float32)
    name = single.graph.input[0].name
    try:
        one = session(single.SerializeToString())
    except Exception as error:
        raise ModelError(f"ONNX Runtime does not run the host segment: {error}", where=f"cut at '{name}'") from error
    try:
        apart: list[list[NDArray[np.float32]]] = [one.run(None, {name: row[np.newaxis]}) for row in x]
        together = session(batched.SerializeToString()).run(None, {name: x})
    except Exception:  # whatever it is, the model is bound to one sample
        return False
    for index, value in enumerate(together):
        rows = np.concatenate([np.atleast_1d(result[index]) for result in apart])
        if rows.shape != value.shape or not np.allclose(rows, value, rtol=1e-3, atol=1e-5, equal_nan=True):
            return False
    return True
