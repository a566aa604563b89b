# SPDX-License-Identifier: Apache-2.0
"""A model file becomes a :class:`~tlc.graph.Graph`. The only code that knows a file format's operators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tlc.errors import ModelError
from tlc.graph import Graph, Shape

__all__ = ["read_model", "write_host"]

TFLITE_MARK = b"TFL3"


def read_model(path: Path, shapes: Mapping[str, Shape] | None = None) -> Graph:
    """The graph of a float ONNX file or a ``.tflite`` file, told apart by their content.

    Raises:
        ModelError: the file cannot be read, or breaks a rule of its format.
    """
    content = _content(path)
    if is_tflite(content) or path.suffix == ".tflite":
        from tlc.frontends.tflite import read_tflite

        return read_tflite(path, shapes)
    from tlc.frontends.onnx import read_onnx

    return read_onnx(path, shapes)


def write_host(path: Path, graph: Graph, host: Graph, cut: str, shapes: Mapping[str, Shape] | None = None) -> bytes:
    """``host.onnx``: what lies behind the cut, in float.

    For an ONNX model it is a piece of the file itself, so it may hold any operator; for a ``.tflite`` it is the
    dequantized graph.

    Args:
        graph: the canonical graph of the whole model.
        host: the part of it behind the cut.
        cut: the tensor between, by its name in ``graph``.
    """
    if is_tflite(_content(path)):
        from tlc.frontends.onnx_writer import write_onnx

        return bytes(write_onnx(host).SerializeToString(deterministic=True))
    from tlc.frontends.onnx_extract import extract_host

    end = host.outputs[0] if host.outputs != graph.outputs else None
    return bytes(extract_host(path, graph, cut, dict(shapes or {}), end).SerializeToString(deterministic=True))


def is_tflite(content: bytes) -> bool:
    """Whether a file's content is a TFLite flatbuffer."""
    return content[4:8] == TFLITE_MARK


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the model cannot be read ({error.strerror})", where=str(path), remedy="give an .onnx or .tflite file"
        ) from None
