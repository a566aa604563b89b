# SPDX-License-Identifier: Apache-2.0
"""Writes a PlatformIO project: it appears whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import tlc
from tlc.boards import Board, Transport
from tlc.bundle import Bundle
from tlc.codegen.expressions import Array, CCall, Emitter, c_array, c_float, identifier
from tlc.codegen.folding import fold_lines
from tlc.codegen.strips import strip_table
from tlc.cost import journal_slot_bytes
from tlc.errors import OutputError
from tlc.graph import Graph, Tensor
from tlc.ops.training import integer_steps
from tlc.ops.training_int import sgd_factors
from tlc.passes.pack import Packing, table_arrays
from tlc.passes.schedule import gradient_name
from tlc.program import Learned, Program, learned_scale, rows_of
from tlc.resources import firmware_dir

__all__ = ["Emission", "Settings", "emit", "initial_state", "render_application", "render_model", "write_project"]

MARKER = ".tlc"
"""A file that says: this directory was written by tlc, and may be replaced by it."""

USER_FILES = ("src/app.c", "include/tlc_secrets.h")
"""What a person edits; kept when a project is compiled again."""


@dataclass(frozen=True)
class Settings:
    """What the head of every generated file says."""

    model_name: str
    model_file: str
    model_hash: str
    board: Board
    cut: str
    pack: str
    train: str
    seed: int
    transport: Transport


def environment() -> jinja2.Environment:
    """The templates, strict: an unknown name is an error."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("tlc.codegen"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters["c_array"] = c_array
    env.filters["c_float"] = c_float
    env.filters["c_target"] = identifier
    env.filters["c_string"] = json.dumps
    env.filters["hash_bytes"] = _hash_bytes
    return env


@dataclass(frozen=True)
class Emission:
    """The C text of a program, before the bundle's hash is known."""

    program: Program
    forward: list[CCall]
    backward: list[CCall]
    loss: CCall | None
    updates: list[dict[str, Any]]
    refresh: list[str]
    arrays: list[Array]
    packed: list[dict[str, Any]]

    @property
    def weights_sha256(self) -> str:
        """Of every constant, by name."""
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{array.name}:{array.c_type}:".encode() + array.values.tobytes())
        return digest.hexdigest()

    @property
    def constant_bytes(self) -> int:
        """Flash of all constant arrays."""
        return sum(array.bytes for array in self.arrays)


def emit(program: Program, packing: Packing) -> Emission:
    """Turns a program's calls into C text and collects its constants."""
    emitter = Emitter(program, packing)
    forward, backward = emitter.forward(), emitter.backward()
    updates, refresh = _updates(program, emitter)
    codes = _codes(emitter)
    return Emission(program, forward, backward, emitter.loss(), updates, refresh, list(emitter.arrays.values()), codes)


def initial_state(emission: Emission) -> bytes:
    """The learned tensors' first values, as they begin in the state; empty where nothing learns."""
    arrays = {array.name: array.values for array in emission.arrays}
    state = bytearray(emission.program.param_bytes)
    for update in emission.updates:
        values = np.ascontiguousarray(arrays[update["initial"]]).tobytes()
        state[update["offset"] : update["offset"] + len(values)] = values
    return bytes(state)


def render_model(emission: Emission, bundle: Bundle, settings: Settings) -> dict[str, str]:
    """The files of ``lib/tlc_model``: path → text."""
    program, forward = emission.program, emission.forward
    graph = program.graph
    context: dict[str, Any] = {
        "program": program,
        "in_integers": program.learning.arithmetic == "int",
        "forward": forward[program.in_strips :],
        "strips": None,
        "keeping": [kept for call in forward for kept in call.keeping],
        "backward": emission.backward,
        "loss": emission.loss,
        "uses_state": _uses_state,
        "layer_names": [call.comment.split(":")[0] for call in forward],
        "inputs": [_edge(graph[name], program.offset(name)) for name in graph.inputs if name != graph.tail],
        "outputs": [_edge(graph[name], program.offset(name)) for name in _outputs(program)],
        "tail": None,
        "aux": None,
        "updates": emission.updates,
        "refresh": emission.refresh,
        "packed": emission.packed,
        "arrays": emission.arrays,
        "message_bytes": bundle.message_bytes,
        "bundle_hash": bundle.hash,
        **_cuts(emission, bundle),
        **_common(settings),
    }
    if program.learned:
        context["gradient"] = _gradient(program, program.top)
        context.setdefault("gradients", [context["gradient"]])
        context["loss_gradient"] = _gradient(program, program.loss_top)
    if graph.aux:
        context["aux"] = {"output": _edge(graph[graph.aux], program.offset(graph.aux))}
    if program.strips:
        context["strips"] = {"calls": forward[: program.in_strips], "table": strip_table(program.strips)}
    if program.tail:
        begins, result = program.tail.input, program.tail.output
        context["tail"] = {
            "input": _edge(graph[begins], program.offset(begins)),
            "output": _edge(graph[result], program.offset(result)),
            "layers": [call for call in forward if call.layer >= program.tail.forward],
        }
        context["forward"] = [call for call in context["forward"] if call.layer < program.tail.forward]
        if program.learned:
            context["tail"]["gradient"] = _gradient(program, begins)
            context["tail"]["backward"] = emission.backward[: program.tail.backward]
            context["backward"] = emission.backward[program.tail.backward :]
    env = environment()
    files = {
        "lib/tlc_model/library.json": "model_library.json.jinja",
        "lib/tlc_model/include/tlc_model.h": "tlc_model.h.jinja",
        "lib/tlc_model/src/tlc_model.c": "tlc_model.c.jinja",
        "lib/tlc_model/src/tlc_weights.h": "tlc_weights.h.jinja",
        "lib/tlc_model/src/tlc_weights.c": "tlc_weights.c.jinja",
    }
    return {path: env.get_template(template).render(context) for path, template in files.items()}


def render_application(program: Program, bundle: Bundle, settings: Settings) -> dict[str, str]:
    """The files around the model: PlatformIO, CMake, the main program, the user's hooks."""
    graph, board = program.graph, settings.board
    journal = bundle.certificate.journal_bytes
    context = {
        "program": program,
        "bundle": bundle,
        "inputs": [_edge(graph[name], 0) for name in graph.inputs if name != graph.tail],
        "outputs": [_edge(graph[name], 0) for name in _outputs(program, bundle)],
        "journal_slot": journal_slot_bytes(program, board),
        "partition_bytes": journal if _own_partition(board) else 0,
        "program_flash_bytes": board.memory.flash_bytes - journal if journal and not board.memory.journal_apart else 0,
        **_common(settings),
    }
    env = environment()
    arduino = board.port == "arduino"
    files = {
        "CMakeLists.txt": "CMakeLists.txt.jinja",
        "include/tlc_config.h": "tlc_config.h.jinja",
        "include/app.h": "app.h.jinja",
        "src/app.c": "app.c.jinja",
        "src/main.cpp" if arduino else "src/main.c": "arduino_main.cpp.jinja" if arduino else "main.c.jinja",
        ".gitignore": "gitignore.jinja",
    }
    if arduino:
        files["platformio.ini"] = "platformio_arduino.ini.jinja"
        files["native/main.c"] = "main.c.jinja"  # for --device native
    if context["partition_bytes"]:
        files["tlc_partitions.csv"] = "tlc_partitions.csv.jinja"
    if arduino and settings.transport == "wifi":
        files["include/tlc_secrets.example.h"] = "tlc_secrets.example.h.jinja"
    rendered = {path: env.get_template(template).render(context) for path, template in files.items()}
    return rendered if arduino else {**rendered, **board.project_files(0 if board.memory.journal_apart else journal)}


def _own_partition(board: Board) -> bool:
    """Whether the journal lies in a partition of a table that we may write: where the board has the SDK's own."""
    partitions = board.platformio.options.get("board_build.partitions")
    return board.memory.journal_apart and partitions in ("default.csv", "default_8MB.csv")


def write_project(directory: Path, files: Mapping[str, str | bytes]) -> None:
    """Writes all files and the firmware library, then moves the whole into place.

    What a person edits (:data:`USER_FILES`) and what PlatformIO built is kept from a project that is there already.

    Raises:
        OutputError: the place cannot be written, or holds something that tlc did not write.
    """
    directory = Path(os.path.abspath(directory))
    if directory.exists() and (
        not directory.is_dir() or (any(directory.iterdir()) and not (directory / MARKER).exists())
    ):
        raise OutputError(
            "exists, and tlc did not write it", where=str(directory), remedy="choose another --out, or remove it"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(directory), remedy="choose another --out"
        ) from None
    try:
        os.chmod(staging, 0o755)
        for path, content in {**files, MARKER: f"{tlc.__version__}\n"}.items():
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        shutil.copytree(
            firmware_dir(),
            staging / "lib" / "tlc",
            ignore=shutil.ignore_patterns("CMakeLists.txt", "cmake", "__pycache__"),
        )
        if directory.exists():
            _keep(directory, staging)
            old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
            os.replace(directory, old / "project")
            try:
                os.replace(staging, directory)
            except OSError:
                os.replace(old / "project", directory)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(staging, directory)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(directory), remedy="free space, or choose another --out"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _keep(old: Path, new: Path) -> None:
    for name in USER_FILES:
        if (old / name).exists():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old / name, new / name)
    if (old / ".pio").exists():
        shutil.copytree(old / ".pio", new / ".pio", symlinks=True, copy_function=os.link)


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "tlc_version": tlc.__version__,
        "model_name": settings.model_name,
        "model_file": settings.model_file,
        "model_hash": settings.model_hash,
        "board": settings.board,
        "cut": settings.cut,
        "pack": settings.pack,
        "train": settings.train,
        "seed": settings.seed,
        "transport": settings.transport,
    }


def _edge(tensor: Tensor, offset: int) -> dict[str, Any]:
    assert tensor.quant is not None
    return {
        "name": tensor.name,
        "offset": offset,
        "elements": tensor.elements,
        "scale": tensor.quant.s,
        "zero_point": tensor.quant.zero_point,
        "shape": list(tensor.shape),
        "dtype": "TLC_S8",
    }


def _uses_state(calls: list[CCall]) -> bool:
    return any("state" in call.text + "".join(call.before) for call in calls)


def _outputs(program: Program, bundle: Bundle | None = None) -> list[str]:
    """What is sent after the (first) forward pass; of several cuts, at the one that the bundle names first."""
    if bundle is not None and bundle.cuts:
        return [bundle.outputs[0].name]
    return program.graph.sent


def _gradient(program: Program, tensor: str) -> dict[str, Any]:
    """The gradient of an activation, at the edge of the backward pass."""
    name = gradient_name(tensor)
    return {
        **_edge(program.graph[tensor], program.offset(name)),
        "name": name,
        "scale": 1.0,
        "zero_point": 0,
        "dtype": "TLC_S16" if program.learning.arithmetic == "int" else "TLC_F32",
    }


def _cuts(emission: Emission, bundle: Bundle) -> dict[str, Any]:
    """Where a bundle has several cuts: where each ends in the forward pass and begins in the backward pass."""
    program = emission.program
    names = [entry.name for entry in bundle.cuts]
    result: dict[str, Any] = {"cuts": [], "ends": {}, "guards": []}
    if not names:
        return result
    graph = program.graph
    gradients: list[dict[str, Any]] = []
    for index, part in enumerate(program.cuts):
        at = len(gradients)
        if part.learned:
            gradients.append(_gradient(program, part.tensor))
        result["cuts"].append(
            {
                "index": index,
                "output": _edge(graph[part.tensor], program.offset(part.tensor)),
                "layers": sum(call.layer < part.forward for call in emission.forward),
                "gradient": at if part.learned else None,
            }
        )
    result["ends"] = {cut["layers"]: cut for cut in result["cuts"][:-1]}
    result["ends"].pop(result["cuts"][-1]["layers"], None)
    if program.learned:
        first = next(index for index, part in enumerate(program.cuts) if part.learned)  # nothing learns before it

        def guard(index: int) -> int:
            return index if index > first else 0

        for number in range(len(emission.backward)):
            result["guards"].append(guard(next(i for i, part in enumerate(program.cuts) if part.backward <= number)))
        for number, update in enumerate(emission.updates):
            update["cut"] = guard(next(i for i, part in enumerate(program.cuts) if number < part.learned))
    chosen = names.index(bundle.cut)
    result |= {"chosen": chosen, "gradients": gradients, "outputs": [result["cuts"][chosen]["output"]]}
    if program.learned and not program.learning.interleaved:
        result["accumulators"] = min(e.accumulator for e in program.learned if e.accumulator is not None)
    return result


def _updates(program: Program, emitter: Emitter) -> tuple[list[dict[str, Any]], list[str]]:
    """The optimizer's constants for each learned tensor, and the lines that fold biases anew."""
    updates = []
    for number, learned in enumerate(program.learned):
        tensor = program.graph[learned.tensor]
        assert tensor.quant is not None
        weight = learned.kind == "weight"
        values = rows_of(program.graph, learned)
        name = f"u{number:02}_{identifier(learned.tensor)}"
        unit = integer_steps(learned_scale(program.graph, learned), program.learning.qas)
        what = "1 / scale" if program.learning.qas else "scale"
        if emitter.in_integers:
            mult, shift = sgd_factors(unit, _input_scale(program.graph, learned))
            tables = [
                ("mult", emitter.add_array(f"{name}_mult", mult, f"{what} of {learned.tensor}: its 16 bits")),
                ("shift", emitter.add_array(f"{name}_shift", shift, "and their exponents")),
            ]
        else:
            tables = [("unit", emitter.add_array(f"{name}_unit", unit, f"{what} of {learned.tensor}"))]
        kind = "float" if not emitter.in_integers else "int16_t" if weight else "int32_t"
        kept = f"({kind} *)(state + {learned.velocity})" if learned.velocity is not None else "NULL"
        if weight:
            kept += f", (int8_t *)(state + {learned.residual})" if learned.residual is not None else ", NULL"
        function, c_type = ("tlc_sgd_s8", "int8_t") if weight else ("tlc_sgd_s32", "int32_t")
        values_at, sums = f"({c_type} *)(state + {learned.offset})", emitter.accumulator(learned.tensor)
        samples = "1" if program.learning.interleaved else "ctx->samples"
        if emitter.in_integers:
            function = function.replace("sgd", "sgd_int")
        arguments = [f"&{name}", values_at, sums, kept, "step", samples]
        initial = emitter.add_array(f"{name}_initial", values, f"{learned.tensor} as trained before")
        rows = len(values)
        updates.append(
            {
                "name": name,
                "comment": f"{learned.tensor} {values.shape}{_of_whole(learned, tensor)}",
                "tensor": learned.tensor,
                "offset": learned.offset,
                "elements": learned.elements,
                "accumulator": "TLC_NO_ACCUMULATOR"
                if learned.accumulator is None or emitter.in_integers
                else learned.accumulator,
                "sums": sums,
                "initial": initial,
                "call": f"{function}({', '.join(arguments)});",
                "dtype": "TLC_S8" if weight else "TLC_S32",
                "fields": [
                    ("rows", rows),
                    ("row_elements", learned.elements // rows),
                    ("per_channel", int(len(unit) > 1)),
                    *tables,
                    ("salt", number),
                ],
            }
        )
    places = ((step, program.folded.get(step.node.name)) for step in program.forward)
    return updates, [
        line for step, at in places if at is not None for line in fold_lines(emitter, step, f"state + {at}")
    ]


def _input_scale(graph: Graph, learned: Learned) -> float:
    """What a weight's gradient in integers leaves to the optimizer."""
    node = next(node for node in graph.nodes if node.name == learned.node)
    quant = graph[node.inputs[0]].quant
    assert quant is not None
    return quant.s if learned.kind == "weight" else 1.0


def _of_whole(learned: Learned, tensor: Tensor) -> str:
    return f" of {tuple(tensor.shape)}" if learned.part else ""


def _codes(emitter: Emitter) -> list[dict[str, Any]]:
    """The Huffman codes: their tables become arrays, and each a ``tlc_huffman_t``."""
    codes = []
    for name, tables in emitter.packing.codes.items():
        users = [tensor for tensor, packed in emitter.packing.weights.items() if packed.code == name]
        comment = f"the code of {', '.join(users)}"
        fields = []
        for table in table_arrays(tables):
            values = np.array(table.values, np.dtype(table.c_type.removesuffix("_t")))
            array = emitter.add_array(f"{name}_{table.field}", values, comment) if table.values else "0"
            fields.append((table.field, array))
        fields += [("lookup_bits", str(tables.lookup_bits)), ("first", str(tables.first))]
        codes.append({"name": name, "comment": comment, "fields": fields})
    return codes


def _hash_bytes(hex_hash: str) -> str:
    values = list(bytes.fromhex(hex_hash))
    lines = [", ".join(f"0x{value:02x}" for value in values[i : i + 16]) for i in range(0, len(values), 16)]
    return "\n".join(f"        {line}," for line in lines)
