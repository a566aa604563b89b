# SPDX-License-Identifier: Apache-2.0
"""``bundle.json``: the contract between compiler, firmware and host.

The device greets with :attr:`Bundle.hash`, the SHA-256 of the bundle's canonical JSON without the hash itself. It covers
the hashes of the weights and of ``host.onnx``, so equal hashes mean that both sides hold the halves of one compilation.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from tlc.errors import BundleError, UsageError, nearest
from tlc.graph import Origin, Quant
from tlc.learning import Learning
from tlc.names import first_name

__all__ = [
    "HOST_FILE",
    "LEARNED_FILE",
    "Bundle",
    "Certificate",
    "CutEntry",
    "EdgeTensor",
    "LearnedTensor",
    "Tail",
    "load",
]

HOST_FILE = "host.onnx"
"""Beside the bundle: what lies behind its cut; of several, behind the one that a device begins with."""

LEARNED_FILE = "learned.bin"
"""Beside the bundle: the learned tensors as they begin, as a parameter message has them."""

VERSION: Literal[1] = 1
PROTOCOL_VERSION: Literal[1] = 1
JOURNAL_OVERHEAD = 128
"""Bytes of a slot before the payload, and what rounding takes: firmware/include/tlc/journal.h."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EdgeTensor(_Model):
    """A tensor where the device segment begins or ends. real = scale · (q − zero_point)."""

    name: str
    """In our graph."""
    file_name: str
    """In the model file."""
    shape: tuple[int, ...]
    """On the device: channels last, batch 1."""
    file_shape: tuple[int, ...]
    """In the model file, batch 1."""
    perm: tuple[int, ...]
    """device value == file value, transposed by ``perm`` and reshaped to ``shape``."""
    dtype: Literal["int8"] = "int8"
    scale: float
    zero_point: int

    @property
    def quant(self) -> Quant:
        """The quantization."""
        return Quant.per_tensor(self.scale, self.zero_point)

    @property
    def origin(self) -> Origin:
        """How to get from one layout to the other."""
        return Origin(self.file_name, self.file_shape, self.perm)

    def to_device(self, real: NDArray[np.float32]) -> NDArray[np.int8]:
        """Reals in the file's layout, (samples, ...), to the device's integers."""
        return self.quant.quantize(self.origin.from_file(real, self.shape))

    def to_file(self, q: NDArray[np.int8]) -> NDArray[np.float32]:
        """The device's integers, (samples, ...), to reals in the file's layout."""
        return self.origin.to_file(self.quant.dequantize(q))


class Tail(_Model):
    """The part of the device segment that follows the host's."""

    input: EdgeTensor
    """What the host's part ends with."""
    output: EdgeTensor
    """The network's output, which stays on the device."""


class CutEntry(_Model):
    """One of several cuts of a bundle."""

    name: str
    """As in :attr:`Bundle.cut`."""
    output: EdgeTensor
    layers: tuple[str, ...]
    macs: int
    learned: int
    """Tensors that learn at this cut: the first ones of the bundle's."""
    host: str
    """The file with what lies behind it."""
    host_sha256: str


class LearnedTensor(_Model):
    """A tensor that learns on the device; its place in a parameter message (bytes)."""

    name: str
    kind: Literal["weight", "bias"]
    node: str
    shape: tuple[int, ...]
    """As it lies in the state: of a weight, the output channel first."""
    outs: tuple[int, int] | None = None
    """The output channels that learn, [first, last); None: all."""
    ins: tuple[int, int] | None = None
    """Of a weight, the input channels that learn; None: all."""
    dtype: Literal["int8", "int32"]
    scale: tuple[float, ...]
    offset: int
    elements: int

    @property
    def nbytes(self) -> int:
        """In a parameter message."""
        return self.elements * (1 if self.dtype == "int8" else 4)


class Certificate(_Model):
    """Bytes, proven at compile time except where it says budget."""

    weight_bytes: int
    """Weights and biases as the model has them, before packing."""
    packed_bytes: int
    """The same as they lie in flash, decoding tables included."""
    table_bytes: int
    """Requantization tables and constants in flash."""
    code_budget: int
    """Flash for the model's code, the runtime's, the port's and the application's: a budget."""
    sdk_flash_budget: int
    """Flash of the SDK, libc and libgcc: a budget."""
    journal_bytes: int = 0
    """Both slots of the journal of learned tensors; not in ``flash_bytes`` where the board has a place apart for it."""
    flash_bytes: int
    arena_bytes: int
    state_bytes: int
    values_bytes: int
    """Floats of the application's hooks, where the arena has no room for them."""
    link_bytes: int
    """The device's own state, the link's windows and buffers, a counter a layer."""
    stack_bytes: int
    """What the stack may take; ``tlc size`` proves that it does not take more."""
    sdk_ram_budget: int
    """RAM of the SDK and the port: a budget."""
    ram_bytes: int


class Bundle(_Model):
    """What compiler, firmware and host agree on."""

    version: Literal[1] = VERSION
    protocol: Literal[1] = PROTOCOL_VERSION
    name: str
    board: str
    model_sha256: str
    cut: str
    rounding: Literal["double"] = "double"
    seed: int
    inputs: tuple[EdgeTensor, ...]
    outputs: tuple[EdgeTensor, ...]
    model_inputs: tuple[str, ...]
    model_outputs: tuple[str, ...]
    tail: Tail | None = None
    """Of a U-shaped split: the device's second part; ``inputs`` and ``outputs`` are the first one's."""
    aux: EdgeTensor | None = None
    """Of a head at the cut: its output, probabilities in 1/256."""
    learned: tuple[LearnedTensor, ...]
    learning: Learning | None = None
    """Where something learns: how."""
    layers: tuple[str, ...]
    message_bytes: int
    macs: int
    certificate: Certificate
    weights_sha256: str
    host_sha256: str | None
    device_sha256: str | None
    learned_sha256: str | None = None
    cuts: tuple[CutEntry, ...] = ()
    """Where there are several: all of them, the shallowest first. ``cut``, and ``outputs``, ``layers``, ``macs`` and
    ``host_sha256`` with it, are of the one that a device begins with; :meth:`at` gives another."""
    hash: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A bundle of one cut has no list of them."""
        content: dict[str, Any] = dump(self)
        if not self.cuts:
            content.pop("cuts", None)
        return content

    @property
    def split(self) -> bool:
        """Whether a part of the network runs on the host."""
        return self.host_sha256 is not None

    @property
    def cut_index(self) -> int | None:
        """Which of several cuts this is; None: there is one."""
        return next((index for index, entry in enumerate(self.cuts) if entry.name == self.cut), None)

    @property
    def host_file(self) -> str:
        """What lies behind the cut, beside the bundle."""
        return HOST_FILE if self.cut_index is None else self.cuts[self.cut_index].host

    @property
    def trains(self) -> bool:
        """Whether something learns where the device's part ends at this cut."""
        return bool(self.learned if self.cut_index is None else self.cuts[self.cut_index].learned)

    def at(self, name: str | None, where: str = "") -> Bundle:
        """The same bundle, with its hash, where the device's part ends at another of its cuts.

        Args:
            name: as in the model file, or the first of a fused tensor's names; None: this one.

        Raises:
            UsageError: it has no such cut.
        """
        if name is None:
            return self
        names = [entry.name for entry in self.cuts] or [self.cut]
        found = [known for known in names if known == name] or [known for known in names if first_name(known) == name]
        if len(found) != 1:
            raise UsageError(
                f"--cut {name}: the project has no such cut",
                where=where,
                remedy=nearest(name, [first_name(known) for known in names]),
            )
        if not self.cuts:
            return self
        entry = self.cuts[names.index(found[0])]
        changed = {
            "cut": entry.name,
            "outputs": (entry.output,),
            "layers": entry.layers,
            "macs": entry.macs,
            "host_sha256": entry.host_sha256,
        }
        return self.model_copy(update=changed)

    @property
    def param_bytes(self) -> int:
        """Of a message with all learned tensors."""
        return max((-(-(entry.offset + entry.nbytes) // 4) * 4 for entry in self.learned), default=0)

    @property
    def journal_slot_bytes(self) -> int:
        """A slot that holds all that can be learned; 0 where nothing learns."""
        if not self.learned:
            return 0
        coded = sum(1 + entry.nbytes for entry in self.learned) + self._memory_bytes
        return max(self.certificate.journal_bytes // 2, -(-(JOURNAL_OVERHEAD + coded) // 4096) * 4096)

    @property
    def _memory_bytes(self) -> int:
        """What the optimizer's memory takes at most: velocities, residuals, and what they are rounded up to."""
        if self.learning is None:
            return 0
        sizes = [entry.elements * self.learning.memory_bytes(entry.kind == "weight") for entry in self.learned]
        return sum(sizes) + 4 * len(sizes) + 16 if any(sizes) else 0

    def digest(self) -> str:
        """The hash that a bundle with this content must bear."""
        content = self.model_dump(mode="json", exclude={"hash"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def sealed(self) -> Bundle:
        """The same bundle with its hash."""
        return self.model_copy(update={"hash": self.digest()})

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def load(directory: Path, cut: str | None = None) -> Bundle:
    """The bundle of a project that ``tlc compile`` wrote.

    Args:
        cut: of several cuts the one to work with; None: the one that a device begins with.

    Raises:
        UsageError: it has no such cut.
        BundleError: it is missing, damaged, or of another version; or the files beside it are not the ones it names.
    """
    path = Path(directory) / "bundle.json"
    try:
        text = path.read_text()
    except OSError as error:
        raise BundleError(
            f"no readable bundle ({error.strerror})",
            where=str(path),
            remedy="give the directory that tlc compile wrote",
        ) from None
    except UnicodeDecodeError:
        raise BundleError("is no text in UTF-8", where=str(path), remedy="it is damaged; compile again") from None
    try:
        bundle = Bundle.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        found = f", not {first['input']!r}" if first["type"] == "literal_error" else ""
        raise BundleError(
            f"{place}{': ' if place else ''}{first['msg']}{found}",
            where=str(path),
            remedy=f"this tlc reads version {VERSION}; compile again",
        ) from None
    if bundle.hash != bundle.digest():
        raise BundleError(
            f"its content has hash {bundle.digest()[:16]}, but it says {bundle.hash[:16]}",
            where=str(path),
            remedy="it was edited or damaged; compile again",
        )
    for name, wanted in (
        (HOST_FILE, None if bundle.cuts else bundle.host_sha256),
        *((entry.host, entry.host_sha256) for entry in bundle.cuts),
        ("device.tflite", bundle.device_sha256),
        (LEARNED_FILE, bundle.learned_sha256),
    ):
        if wanted is None:
            continue
        try:
            found = hashlib.sha256((Path(directory) / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(
                f"the bundle names it, but it cannot be read ({error.strerror})",
                where=str(path.with_name(name)),
                remedy="compile again",
            ) from None
        if found != wanted:
            raise BundleError(
                f"has hash {found[:16]}, but the bundle names {wanted[:16]}",
                where=str(path.with_name(name)),
                remedy="it belongs to another compilation; compile again",
            )
    return bundle.at(cut, str(directory))
