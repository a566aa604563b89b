# SPDX-License-Identifier: Apache-2.0
"""An ONNX model as a differentiable TensorFlow function: its nodes are run one by one by the functions in ``ops/``.

The file stays what it is: after training it is written again with other values in its constants, so that every node, name
and shape is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import tensorflow as tf
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from tlc.errors import ModelError, UnsupportedOperator, nearest
from tlc_host.model.ops import OPERATORS
from tlc_host.model.ops.base import Call, Operator, Run, Untrainable, is_static
from tlc_host.model.ops.normalization import STATISTICS

__all__ = ["OnnxModule"]

REMEDY = "cut behind it, so that it runs on the device, or run inference only"
STANDARD = ("", "ai.onnx")
FINISHES = ("Softmax", "LogSoftmax", "Sigmoid")


class OnnxModule:
    """Runs a model forward; differentiable with respect to its inputs and parameters.

    Parameters are the float32 initializers that the operators' tables say learn: weights and biases, scales, and summands
    and factors of more than one finite value; also through reshapes and transposes.

    Args:
        model: the file's bytes.
        dtype: what it computes in; ``float64`` to measure what float32 costs.
        where: what errors name.

    Raises:
        ModelError: it is no ONNX model.
        UnsupportedOperator: an operator cannot be trained; names the node.
    """

    def __init__(self, model: bytes, *, dtype: str = "float32", where: str = "host.onnx") -> None:
        self.where = where
        try:
            proto = onnx.load_model_from_string(model)
        except Exception as error:  # protobuf's own errors have no common public class
            raise ModelError("not an ONNX model, or a truncated one", where=where, remedy="compile again") from error
        self.proto = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
        self.dtype = np.dtype(dtype)
        self.opset = next((o.version for o in proto.opset_import if o.domain in STANDARD), 0)
        graph = self.proto.graph
        initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in initializers]
        self.outputs = [value.name for value in graph.output]
        self.operators = [self._operator(node) for node in graph.node]
        self.attributes = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in graph.node]
        learning = _learning(graph, self.operators, initializers)
        running = {
            node.input[index] for node in graph.node if node.op_type == "BatchNormalization" for index in STATISTICS
        }
        self.parameters: dict[str, tf.Variable] = {}
        """By the file's names; each learns."""
        self.statistics: dict[str, tf.Variable] = {}
        """Running means and variances."""
        self.constants: dict[str, NDArray[Any]] = {}
        for name, data in initializers.items():
            value = data.astype(self.dtype) if data.dtype == np.float32 else data
            if name in running:
                self.statistics[name] = tf.Variable(value, trainable=False)
            elif name in learning and data.dtype == np.float32:
                self.parameters[name] = tf.Variable(value)
            else:
                self.constants[name] = value

    def __call__(self, inputs: Mapping[str, Any], wanted: Sequence[str] | None = None, run: Run | None = None) -> Any:
        """Tensors by name: the model's outputs, or the ``wanted`` ones.

        Args:
            inputs: in the file's layout. Integers should be NumPy arrays, so that shapes follow from them.
            run: how; None: inference.
        """
        run = run or Run()
        values: dict[str, Any] = {**self.constants, **self.statistics, **self.parameters, **inputs}
        # One read of a variable a pass, so that a gradient has one place to gather.
        for name in (*self.statistics, *self.parameters):
            values[name] = tf.convert_to_tensor(values[name])
        goals = list(wanted or self.outputs)
        needed = self._needed(tuple(goals))
        for index in needed:
            node = self.proto.graph.node[index]
            outputs = self._node(index, [values[name] if name else None for name in node.input], run)
            values.update({name: value for name, value in zip(node.output, outputs, strict=False) if name})
        return {name: values[name] for name in goals}

    def finish(self, output: str) -> tuple[str, str]:
        """The activation that makes an output (Softmax, LogSoftmax, Sigmoid, or none: "") and the tensor before it."""
        for node in self.proto.graph.node:
            if output in node.output:
                if node.op_type in FINISHES:
                    return node.op_type, node.input[0]
                if node.op_type == "Identity":
                    return self.finish(node.input[0])
        return "", output

    def require_gradient(self, output: str, input_name: str) -> None:
        """Refuses a model in which no gradient gets from an output to the input.

        Raises:
            UnsupportedOperator: names the operator in the way.
        """
        reached, stopped = {input_name}, None
        for node, operator in zip(self.proto.graph.node, self.operators, strict=True):
            if reached & set(node.input):
                if operator.differentiable:
                    reached.update(name for name in node.output if name)
                else:
                    stopped = stopped or node
        if output not in reached:
            what = f"{stopped.op_type} has no gradient" if stopped is not None else "no gradient gets to the cut"
            raise UnsupportedOperator(
                f"{what}, so the segment cannot be trained",
                where=self._place(stopped) if stopped is not None else self.where,
                remedy=REMEDY,
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Parameters and statistics as they are now."""
        return {name: variable.numpy() for name, variable in (*self.parameters.items(), *self.statistics.items())}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Sets parameters and statistics.

        Raises:
            ModelError: a name or a shape is not the model's.
        """
        variables = {**self.parameters, **self.statistics}
        for name, value in arrays.items():
            if name not in variables:
                raise ModelError(f"no parameter '{name}'", where=self.where, remedy=nearest(name, variables))
            if tuple(variables[name].shape) != np.shape(value):
                raise ModelError(
                    f"'{name}' must be of shape {list(variables[name].shape)}, but is {list(np.shape(value))}",
                    where=self.where,
                    remedy="take the weights of the same model",
                )
        for name, value in arrays.items():
            variables[name].assign(np.asarray(value, self.dtype))

    def onnx(self) -> bytes:
        """The model with the values as they are now."""
        result = onnx.ModelProto()
        result.CopyFrom(self.proto)
        values = self.arrays()
        for tensor in result.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
        content: bytes = result.SerializeToString(deterministic=True)
        return content

    # ---- one node ------------------------------------------------------------------------------------------------------

    def _operator(self, node: NodeProto) -> Operator:
        found = OPERATORS.get(node.op_type) if node.domain in STANDARD else None
        if found is None:
            kind = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
            raise UnsupportedOperator(f"{kind} cannot be trained", where=self._place(node), remedy=REMEDY)
        return found

    def _node(self, index: int, inputs: list[Any], run: Run) -> tuple[Any, ...]:
        node, operator = self.proto.graph.node[index], self.operators[index]
        call = Call(node, self.opset, self.attributes[index], inputs, run)
        folds = all(value is None or is_static(value) for value in inputs)
        try:
            if folds:  # a shape, or what a formula is made of: known once and for all shapes alike
                with tf.init_scope():
                    return tuple(self._array(value) for value in _several(operator.forward(call)))
            outputs = _several(operator.forward(call))
        except Untrainable as reason:
            raise UnsupportedOperator(f"{node.op_type} {reason}", where=self._place(node), remedy=REMEDY) from None
        except (tf.errors.OpError, ValueError, TypeError, IndexError, KeyError) as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ModelError(
                f"the inputs and attributes of {node.op_type} do not fit together: {text}",
                where=self._place(node),
                remedy="check the export",
            ) from error
        return outputs

    def _array(self, value: Any) -> Any:
        array = value if is_static(value) else np.asarray(value)
        return array.astype(self.dtype) if array.dtype == np.float32 else array

    def _place(self, node: NodeProto) -> str:
        return f"node '{node.name or node.output[0]}' of {self.where}"

    def _needed(self, goals: tuple[str, ...]) -> list[int]:
        wanted, result = set(goals), []
        for index in range(len(self.operators) - 1, -1, -1):
            node = self.proto.graph.node[index]
            if wanted & set(node.output):
                wanted.update(node.input)
                result.append(index)
        return result[::-1]


def _several(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _learning(
    graph: onnx.GraphProto, operators: Iterable[Operator], initializers: Mapping[str, NDArray[Any]]
) -> set[str]:
    """Names whose values are parameters if they are initializers."""
    names: set[str] = set()
    for node, operator in reversed(list(zip(graph.node, operators, strict=True))):
        for index in operator.learns:
            if index < len(node.input) and node.input[index]:
                data = initializers.get(node.input[index])
                if data is None or not operator.wide or (data.size > 1 and bool(np.isfinite(data).all())):
                    names.add(node.input[index])
        if operator.view and names & set(node.output):
            names.update(name for name in node.input if name)
    return names
