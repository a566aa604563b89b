# SPDX-License-Identifier: Apache-2.0
"""An ONNX file → a ModelProto with batch 1, static input shapes, constants folded and every shape inferred.

Tensors keep their names, so that a user can name them: nothing is simplified but what depends on constants alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from tlc.errors import ModelError, UsageError, nearest
from tlc.graph import Shape

__all__ = ["MAX_IR", "MAX_OPSET", "MIN_OPSET", "captured", "load_onnx", "opset_of", "shape_of"]

MIN_OPSET = 7
"""Broadcasting as NumPy has it begins there."""
MAX_OPSET = 26
MAX_IR = 13
"""The newest that ONNX Runtime, which runs the host segment, takes."""

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}

_log = logging.getLogger(__name__)


def load_onnx(model: str | Path | bytes, shapes: Mapping[str, Shape] | None = None) -> onnx.ModelProto:
    """Reads, checks and prepares a model.

    Args:
        model: a file, or its bytes.
        shapes: per input, the shape to give it; batch included, and 1.

    Raises:
        ModelError: the file is no ONNX model, is damaged, or breaks a rule.
        UsageError: ``shapes`` names no input, or does not fit it.
    """
    where = "model" if isinstance(model, bytes) else Path(model).name
    proto = _parse(model, where)
    _check(proto, where)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    proto.ir_version = min(proto.ir_version, MAX_IR)
    _fix_inputs(proto, dict(shapes or {}))
    proto = _infer(proto, where)
    if _has_constant_nodes(proto.graph):
        proto = _infer(_fold(proto), where)
    _refuse_nan(proto.graph)
    return proto


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def shape_of(info: onnx.ValueInfoProto) -> Shape | None:
    """A tensor's shape, 0 where a dimension is unknown; None where the rank is."""
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(max(d.dim_value, 0) for d in kind.shape.dim)


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads: its inputs, and what the graphs inside it (If, Loop) take from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inside = {i.name for i in graph.input} | {i.name for i in graph.initializer}
            for inner in graph.node:
                yield from (name for name in captured(inner) if name not in inside)
                inside.update(inner.output)
            yield from (o.name for o in graph.output if o.name not in inside)


def _parse(model: str | Path | bytes, where: str) -> onnx.ModelProto:
    try:
        if isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load(str(model), load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError("no such file", where=str(model)) from error
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror or error}", where=str(model)) from error
    except Exception as error:  # protobuf's own errors have no common public class
        raise ModelError("not an ONNX model, or a truncated one", where=where, remedy="export it again") from error
    if not proto.graph.node and not proto.graph.output:
        raise ModelError("not an ONNX model, or a truncated one", where=where, remedy="export it again")
    external = next((t.name for t in proto.graph.initializer if onnx.external_data_helper.uses_external_data(t)), None)
    if external is not None:
        missing = f"the weights of '{external}' lie in another file, which is not there or does not hold them"
        remedy = "keep the .onnx.data file beside the model, or export into one file"
        if isinstance(model, bytes):
            raise ModelError(missing, where=where, remedy=remedy)
        try:
            onnx.load_external_data_for_model(proto, str(Path(model).resolve().parent))
        except Exception as error:
            raise ModelError(missing, where=where, remedy=remedy) from error
    return proto


def _check(proto: onnx.ModelProto, where: str) -> None:
    version = opset_of(proto)
    if not MIN_OPSET <= version <= MAX_OPSET:
        raise ModelError(
            f"the opset must be {MIN_OPSET} to {MAX_OPSET}, but it is {version or 'not given'}",
            where=where,
            remedy="export with opset 17",
        )
    shaped = onnx.ModelProto()
    shaped.CopyFrom(proto)
    for value in shaped.graph.output:  # the checker wants a shape, which nobody else needs
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(shaped)
    except UnicodeDecodeError as error:
        raise ModelError("not an ONNX model, or a damaged one", where=where, remedy="export it again") from error
    except Exception as error:
        text = str(error).strip().splitlines()
        raise ModelError(f"not a valid ONNX model: {text[0] if text else error!r}", where=where) from error
    if proto.graph.sparse_initializer:
        raise ModelError("sparse initializers are not supported", where=where, remedy="export dense weights")


def _fix_inputs(proto: onnx.ModelProto, shapes: dict[str, Shape]) -> None:
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for name in shapes:
        if name not in {value.name for value in inputs}:
            raise UsageError(
                f"the model has no input '{name}'", where="--shape", remedy=nearest(name, [v.name for v in inputs])
            )
    for value in inputs:
        given = shapes.get(value.name)
        where = f"input '{value.name}'"
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise ModelError("must be a tensor, but is a sequence, a map or an optional", where=where)
        if given is not None:
            if min(given, default=0) < 1 or (kind.HasField("shape") and len(given) != len(kind.shape.dim)):
                rank = len(kind.shape.dim)
                raise UsageError(
                    f"'{_text(given)}' does not fit {where}, which has {rank} dimensions, each at least 1",
                    where="--shape",
                    remedy=f"for example --shape {value.name}={_example(kind.shape)}",
                )
            _set_shape(value, given)
        elif not kind.HasField("shape") or not kind.shape.dim:
            raise ModelError(
                "has no batch axis" if kind.HasField("shape") else "has no shape",
                where=where,
                remedy=f"give it with --shape {value.name}=1x49x10 (your numbers)",
            )
        dims = value.type.tensor_type.shape.dim
        if given is None and dims[0].dim_value < 1:
            dims[0].ClearField("dim_param")
            dims[0].dim_value = 1
        if dims[0].dim_value != 1:
            raise ModelError(
                f"the first dimension is the batch and must be 1, but it is {dims[0].dim_value}",
                where=where,
                remedy=f"export with batch 1, or try --shape {value.name}={_text((1, *(d.dim_value for d in dims[1:])))}",
            )
        for index, dim in enumerate(dims):
            if dim.dim_value < 1:
                symbol = f"'{dim.dim_param}'" if dim.dim_param else "unknown"
                raise ModelError(
                    f"dimension {index} must be a number, but it is {symbol}",
                    where=where,
                    remedy=f"fix it: --shape {value.name}={_example(value.type.tensor_type.shape)} (your number)",
                )


def _example(shape: onnx.TensorShapeProto) -> str:
    return _text((1, *(d.dim_value if d.dim_value > 0 else 49 for d in list(shape.dim)[1:])))


def _text(shape: Shape) -> str:
    return "x".join(str(extent) for extent in shape)


def _set_shape(value: onnx.ValueInfoProto, shape: Shape) -> None:
    kind = value.type.tensor_type
    kind.ClearField("shape")
    for extent in shape:
        kind.shape.dim.add().dim_value = extent


def _infer(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Shapes from the inputs alone: what the file says of others may speak of another batch."""
    stated = {value.name: value for value in proto.graph.value_info}
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        result = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except Exception as error:
        text = [line.strip() for line in str(error).strip().splitlines()]
        last = text[-1] if text else repr(error)
        raise ModelError(
            f"its shapes do not fit together: {last}", where=where, remedy="check the export, and --shape if given"
        ) from error
    known = {value.name for value in result.graph.value_info}
    for name, value in stated.items():  # of operators without a shape rule
        if name not in known:
            dims = value.type.tensor_type.shape.dim
            if len(dims) and dims[0].dim_value < 1:
                dims[0].dim_value = 1
            result.graph.value_info.append(value)
    return result


def _has_constant_nodes(graph: onnx.GraphProto) -> bool:
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
        elif node.op_type in ("Shape", "Size") or (node.input and all(not n or n in constants for n in node.input)):
            return True
    return False


def _fold(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxruntime
    from onnxslim.third_party import onnx_graphsurgeon as surgeon

    onnxruntime.set_default_logger_severity(3)
    try:
        graph = surgeon.import_onnx(proto)
        graph.fold_constants()
        graph.cleanup()
        folded: onnx.ModelProto = surgeon.export_onnx(graph)
    except Exception as error:  # then what depends on them is opaque, and says so
        _log.warning("constants are not folded: %s", error)
        return proto
    finally:
        onnxruntime.set_default_logger_severity(2)
    folded.ir_version = proto.ir_version
    return folded


def _refuse_nan(graph: onnx.GraphProto) -> None:
    constants = list(graph.initializer)
    for node in graph.node:
        constants += [a.t for a in node.attribute if node.op_type == "Constant" and a.name == "value"]
    for tensor in constants:
        if tensor.data_type in _FLOATS and np.isnan(numpy_helper.to_array(tensor).astype(np.float32)).any():
            raise ModelError(
                "weights must be finite, but some are NaN",
                where=f"constant '{tensor.name}'",
                remedy="train again, or export an earlier checkpoint",
            )
