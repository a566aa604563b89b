# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the program: ``docs/operators.md``, and the table of ``docs/boards.md``.

    python -m tlc.report.docs [DIRECTORY]

An operator's rules are the docstrings of the functions that check them; kernels and gradients are those that a small
example of it emits. Boards are the files in ``boards/``.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from tlc import boards
from tlc.boards import Board
from tlc.errors import TlcError
from tlc.graph import Graph, Node, Quant, Shape, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation, Call, Operator

__all__ = ["NOTHING", "OPERATORS", "Entry", "boards_table", "operators_page", "with_boards"]

BEGIN, END = "<!-- boards: written by `python -m tlc.report.docs` -->\n", "<!-- boards end -->"
IMAGE: Shape = (1, 6, 6, 4)
ROW: Shape = (1, 8)


@dataclass(frozen=True)
class Entry:
    """What an operator's own file does not say: its names in model files, and an example of it.

    ``onnx`` and ``tflite``: name in the file → when it becomes this operator ("" where always).
    ``inputs``: shapes of the example's activations; ``weights``: of its constants, the bias last.
    """

    onnx: Mapping[str, str] = field(default_factory=dict)
    tflite: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Shape, ...] = (IMAGE,)
    weights: tuple[Shape, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)


WINDOW = {"kernel": (2, 2), "strides": (2, 2)}

OPERATORS: dict[str, Entry] = {
    "conv2d": Entry(
        {"Conv": "1-D and 2-D"}, {"CONV_2D": ""}, weights=((8, 3, 3, 4), (8,)), attrs={"pads": (1, 1, 1, 1)}
    ),
    "depthwise_conv2d": Entry(
        {"Conv": "with as many groups as input channels", "BatchNormalization": "with nothing to fold it into"},
        {"DEPTHWISE_CONV_2D": ""},
        weights=((1, 3, 3, 4), (4,)),
        attrs={"pads": (1, 1, 1, 1)},
    ),
    "dense": Entry(
        {"Gemm": "", "MatMul": "one side constant"}, {"FULLY_CONNECTED": ""}, inputs=(ROW,), weights=((4, 8), (4,))
    ),
    "add": Entry({"Add": ""}, {"ADD": ""}, inputs=(IMAGE, IMAGE)),
    "sub": Entry({"Sub": ""}, {"SUB": ""}, inputs=(IMAGE, IMAGE)),
    "mul": Entry({"Mul": "", "Div": "by a constant"}, {"MUL": ""}, inputs=(IMAGE, IMAGE)),
    "clamp": Entry(
        {"Relu": "", "Clip": "to 0..6, -1..1 or 0..∞"},
        {"RELU": "", "RELU6": "", "RELU_N1_TO_1": ""},
        attrs={"activation": Activation.RELU},
    ),
    "softmax": Entry({"Softmax": ""}, {"SOFTMAX": ""}, inputs=(ROW,)),
    "max_pool2d": Entry({"MaxPool": "1-D and 2-D", "GlobalMaxPool": ""}, {"MAX_POOL_2D": ""}, attrs=WINDOW),
    "average_pool2d": Entry({"AveragePool": "1-D and 2-D"}, {"AVERAGE_POOL_2D": ""}, attrs=WINDOW),
    "mean": Entry({"GlobalAveragePool": "", "ReduceMean": ""}, {"MEAN": ""}, attrs={"axes": (1, 2)}),
    "reshape": Entry(
        {"Reshape": "", "Flatten": "", "Squeeze": "", "Unsqueeze": ""},
        {"RESHAPE": "", "SQUEEZE": "", "EXPAND_DIMS": ""},
        attrs={"shape": (1, 144)},
    ),
    "transpose": Entry({"Transpose": ""}, {"TRANSPOSE": ""}, attrs={"perm": (0, 3, 1, 2)}),
    "pad": Entry(
        {"Pad": "by a constant"},
        {"PAD": "", "PADV2": ""},
        attrs={"pads": ((0, 0), (1, 1), (1, 1), (0, 0))},
    ),
    "batch_norm": Entry({"BatchNormalization": ""}, weights=((4,), (4,), (4,), (4,))),
    "quantize": Entry({}, {"QUANTIZE": "int8 to int8"}),
}
"""All but ``opaque``, in the order of the page."""

NOTHING = {"onnx": ("Constant", "Dropout", "Identity"), "tflite": ("DEQUANTIZE", "QUANTIZE")}
"""What disappears; the two of TFLite only at the model's edge, where they change how values are stored."""

HEAD = """# Operators

<!-- Written by `python -m tlc.report.docs` from compiler/tlc/ops. Do not edit. -->

What can run on the device. A rule that does not hold is an error that names the node, the rule and the value; the same
operator is fine on the host's side of the cut, where ONNX Runtime runs the model's own nodes. `tlc plan` lists the cuts.

Layouts are channels-last: N batch (always 1), H height, W width, C channels, M channels per input channel. One-dimensional
convolutions and pools are two-dimensional ones with H = 1. Activations are int8 with one scale and zero point a tensor,
weights int8 with one scale an output channel, biases int32: the LiteRT 8-bit specification.

A gradient of *x* lets layers before this operator learn; one of *weight* and *bias* lets the layer itself learn.
"""
LAST_LAYER = "Layers with weights have none of *x*, so only the last of them on the device can learn."


def operators_page() -> str:
    """The whole page, Markdown."""
    rows = ["| operator | ONNX | TFLite | C kernel | gradient |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| [{name}](#{name}) | {_names(entry.onnx)} | {_names(entry.tflite)} | {_kernel(name)} | {_gradient(name)} |"
        for name, entry in OPERATORS.items()
    ]
    gone = (
        f"ONNX's {_code(NOTHING['onnx'])} leave nothing behind, nor do TFLite's {_code(NOTHING['tflite'])} at the model's "
        "edge. Every other operator is the host's."
    )
    weighted = (name for name in OPERATORS if REGISTRY[name].weight_axis(example(name)[1]) is not None)
    if not any("x" in _gradient(name).split(", ") for name in weighted):
        gone = f"{gone}\n\n{LAST_LAYER}"
    return "\n".join([HEAD, *rows, "", gone, *(_section(name) for name in OPERATORS)]) + "\n"


def _section(name: str) -> str:
    operator, entry = REGISTRY[name], OPERATORS[name]
    lines = ["", f"## {name}", "", _prose(operator), "", "| | |", "| --- | --- |"]
    lines += [f"| ONNX | {_names(entry.onnx, long=True)} |"] if entry.onnx else []
    lines += [f"| TFLite | {_names(entry.tflite, long=True)} |"] if entry.tflite else []
    lines += [f"| attributes | {attributes} |"] if (attributes := _attributes(operator)) else []
    lines += [f"| C kernel | {_kernel(name, link=True)} |", f"| gradient | {_gradient(name, calls=True)} |"]
    if operator.rules:
        lines += ["", "On the device:", ""]
        lines += [f"- {_sentence(rule)}" for rule in operator.rules]
    return "\n".join(lines)


def _prose(operator: Operator) -> str:
    """The operator's docstring and that of its attributes."""
    texts = [inspect.getdoc(type(operator)) or "", inspect.getdoc(operator.Attrs) or ""]
    return "\n\n".join(text.replace("``", "`") for text in texts if text)


def _attributes(operator: Operator) -> str:
    def show(value: Any) -> str:
        return f"`{value.value if isinstance(value, Enum) else value}`"

    return ", ".join(
        f"`{f.name}`" if f.default is dataclasses.MISSING else f"`{f.name}` = {show(f.default)}"
        for f in dataclasses.fields(operator.Attrs)
    )


def _sentence(rule: Callable[..., Any]) -> str:
    text = " ".join((inspect.getdoc(rule) or "").split())
    assert text, f"{rule.__name__} has no docstring"
    return text


def _names(names: Mapping[str, str], long: bool = False) -> str:
    return ", ".join(f"`{name}`" + (f" {when}" if long and when else "") for name, when in names.items())


def _code(names: tuple[str, ...]) -> str:
    return f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"


def _kernel(name: str, link: bool = False) -> str:
    graph, node = example(name)
    try:
        call = REGISTRY[name].call(graph, node)
    except TlcError:
        return "none: folded into its neighbours"
    if call is None:
        return "none: the same bytes"
    source = call.function.removeprefix("tlc_").removesuffix("_s8")
    return f"[`{call.function}`](../firmware/src/kernels/{_source(source)}.c)" if link else f"`{call.function}`"


def _source(kernel: str) -> str:
    """The file of a kernel: its own name, but for the one that differs in a sign."""
    return "add" if kernel == "sub" else kernel


def _gradient(name: str, calls: bool = False) -> str:
    """Of which inputs the C code computes a gradient, and by which functions."""
    operator = REGISTRY[name]
    if operator.alias:
        return "of x: the same bytes" if calls else "x"
    graph, node = example(name)
    roles = ("x", "weight", "bias") if OPERATORS[name].weights else ("a", "b") if len(node.inputs) == 2 else ("x",)
    found: list[str] = []
    functions: dict[str, None] = {}
    for index, role in enumerate(roles):
        made = _backward(operator, graph, node, index)
        if made is not None:
            found.append(role)
            functions.update(dict.fromkeys(f"`{call.function}`" for call in made))
    if not found:
        return "no"
    if not calls:
        return ", ".join(found)
    return f"of {' and '.join(found)}: {', '.join(functions)}"


def _backward(operator: Operator, graph: Graph, node: Node, index: int) -> list[Call] | None:
    return operator.backward(graph, node, frozenset({index}), frozenset())


def example(name: str) -> tuple[Graph, Node]:
    """An integer graph of one node."""
    operator, entry = REGISTRY[name], OPERATORS[name]
    graph = Graph(name)
    node = Node(name, name, [], ["y"], operator.Attrs(**entry.attrs))
    for index, shape in enumerate(entry.inputs):
        node.inputs.append(graph.add(Tensor(f"x{index}", shape, "int8", Quant.per_tensor(0.05, 3))).name)
    axis = operator.weight_axis(node)
    for index, shape in enumerate(entry.weights):
        bias = index > 0
        channels = shape[0] if axis is None or bias else shape[axis]
        quant = Quant(np.full(channels, 0.01, np.float32), 0, axis)
        data = np.ones(shape, np.int32 if bias else np.int8)
        node.inputs.append(graph.constant(f"w{index}", data, quant).name)
    quant_out = operator.output_quant([Quant.per_tensor(0.05, 3)])
    same = Quant.per_tensor(0.05, 3) if operator.same_quant else Quant.per_tensor(0.1, -5)
    graph.add(Tensor("y", operator.infer(graph, node), "int8", quant_out or same))
    graph.nodes.append(node)
    graph.inputs, graph.outputs = node.inputs[: len(entry.inputs)], ["y"]
    operator.check(graph, node)
    return graph, node


def boards_table() -> str:
    """Every board with its memory in bytes, how it runs, and what is run of it in the tests; Markdown."""
    rows = [
        "| board | core | flash, B | RAM, B | link | how it runs | what the tests run |",
        "| --- | --- | ---: | ---: | --- | --- | --- |",
    ]
    for board in map(boards.load, boards.names()):
        memory, links = board.memory, ", ".join(board.transports)
        rows.append(
            f"| `{board.id}` | {board.cpu.core} | {memory.flash_bytes:,} | {memory.ram_bytes:,} | {links} "
            f"| {_machine(board)} | {_tried(board)} |"
        )
    return "\n".join(rows) + "\n"


def _machine(board: Board) -> str:
    if board.emulator is None:
        return f"{board.title.replace('(Arduino)', '').strip()}, Arduino: `{board.platformio.platform}`"
    if board.emulator.kind == "process":
        return "a process of this machine"
    return f"{'Renode' if board.emulator.kind == 'renode' else 'QEMU'} `{board.emulator.machine}`"


def _tried(board: Board) -> str:
    if board.emulator is not None and board.emulator.kind == "renode":
        return "its project, generated and compiled; run only where there is a Renode, as in the public CI; never run on silicon"
    if board.emulator is not None:
        return "its firmware"
    return "its project, generated and compiled against a shim of its Arduino core; never with its own compiler, never run on silicon"


def with_boards(page: str) -> str:
    """``docs/boards.md`` with its table as it must be.

    Raises:
        ValueError: the marks around the table are missing.
    """
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return page[:start] + boards_table() + page[end:]


def main() -> None:
    """Writes the pages."""
    docs = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    (docs / "operators.md").write_text(operators_page(), encoding="utf-8")
    page = docs / "boards.md"
    page.write_text(with_boards(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
