# SPDX-License-Identifier: Apache-2.0
"""The generated C as a shared library: in tests, accuracy figures and fleets, this *is* the device.

The library is built once for a project's content and kept in the user's cache; every :class:`Twin` is an instance with all
its state in memory of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc.errors import DeviceError
from tlc.hostbuild import build

__all__ = ["OptimizerStep", "Twin", "TwinLibrary", "kept_twin"]

FLASH_DIR = ".flash"
"""In a project: what the twin and the native device keep from run to run."""

RESULTS = 1024
"""Floats of a result that the twin keeps."""

NO_LEARNING = bytes(128)
"""A ``tlc_learning_t`` of zeros: the twin learns only when the host says so."""

FLAGS = ["-fPIC", "-shared", "-fvisibility=hidden"]


class TwinLibrary:
    """The shared library of one project.

    Args:
        directory: the project that ``tlc compile`` wrote.
        sanitize: build under UBSan, which traps on undefined behaviour.
        cut: of several cuts the one at which its devices begin; None: the bundle's own.

    Raises:
        UsageError: the project has no such cut.
        ToolchainError: there is no C compiler, or it refuses the project.
    """

    def __init__(self, directory: Path, *, sanitize: bool = False, cut: str | None = None) -> None:
        self.directory = Path(directory)
        self.bundle: Bundle = bundles.load(directory, cut)
        flags = [*FLAGS, *(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"] if sanitize else [])]
        self.path = build(self.directory, ["lib/tlc/ports/twin/twin.c"], flags, "twin.so")
        self.c = ctypes.CDLL(str(self.path))
        for name in ("bytes", "receive", "send"):
            getattr(self.c, f"tlc_twin_{name}").restype = ctypes.c_size_t
        for name in ("arena_bytes", "state_bytes", "param_bytes", "input_bytes", "output_bytes", "gradient_elements"):
            getattr(self.c, f"tlc_twin_{name}").restype = ctypes.c_uint32
        self.c.tlc_twin_operations.restype = ctypes.c_uint32

    @cached_property
    def instance_bytes(self) -> int:
        """Memory of one instance."""
        return int(self.c.tlc_twin_bytes())

    def create(self, boot: int = 1, flash: NDArray[np.uint8] | None = None) -> Twin:
        """A fresh device; with ``flash`` one that keeps what it learns."""
        return Twin(self, boot, flash)

    def blank_flash(self) -> NDArray[np.uint8]:
        """(2, bytes of a slot): flash for a journal, erased."""
        return np.full((2, self.bundle.journal_slot_bytes), 0xFF, np.uint8)


class OptimizerStep(ctypes.Structure):
    """tlc_step_t: what an optimizer step is told."""

    _fields_ = (
        ("learning_rate", ctypes.c_float),
        ("step", ctypes.c_uint32),
        ("seed", ctypes.c_uint32),
        ("momentum", ctypes.c_float),
        ("weight_decay", ctypes.c_float),
        ("clip", ctypes.c_float),
        ("max_norm", ctypes.c_float),
    )


class Twin:
    """One device in this process: the model called directly, or its main loop over byte pipes.

    Args:
        library: of its project, or the project's directory.
        boot: a number that differs from boot to boot.
        flash: (2, bytes of a slot) of a journal, which the caller keeps; None: what is learned ends with a reboot.
    """

    def __init__(self, library: TwinLibrary | Path, boot: int = 1, flash: NDArray[np.uint8] | None = None) -> None:
        self.library = library if isinstance(library, TwinLibrary) else TwinLibrary(library)
        self.bundle = self.library.bundle
        self._c = self.library.c
        self._bytes = np.zeros(self.library.instance_bytes + 16, np.uint8)
        address = self._bytes.ctypes.data
        self._memory = ctypes.c_void_p(address + -address % 16)
        self.flash = flash if flash is not None and flash.size else None
        self.reboot(boot)

    def reboot(self, boot: int) -> None:
        """A power cycle: the link's state is gone, and of what was learned all but the journal's last entry."""
        standalone = int(not self.bundle.split)
        if self.flash is None:
            self._check(self._c.tlc_twin_init(self._memory, ctypes.c_uint32(boot), standalone))
        else:
            slot_bytes = ctypes.c_uint32(self.flash.shape[1])
            self._check(
                self._c.tlc_twin_init_flash(
                    self._memory, ctypes.c_uint32(boot), standalone, _pointer(self.flash), slot_bytes
                )
            )
        self._select()

    def select(self, cut: str) -> None:
        """Ends the device's part at another of the bundle's cuts; gradients accumulated are forgotten.

        Raises:
            UsageError: the bundle has no such cut.
        """
        self.bundle = self.bundle.at(cut, str(self.library.directory))
        self._select()

    def _select(self) -> None:
        if self.bundle.cut_index is not None:
            self._check(self._c.tlc_twin_select(self._memory, ctypes.c_uint8(self.bundle.cut_index)))

    # ---- the journal ----

    def save(self) -> None:
        """Writes the learned tensors into the journal."""
        self._check(self._c.tlc_twin_save(self._memory))

    def cut_power(self, operations: int) -> None:
        """The power fails in the flash operation (a byte written, 64 bytes erased) after so many more."""
        self._c.tlc_twin_cut(self._memory, ctypes.c_uint32(operations))

    @property
    def operations(self) -> int:
        """Flash operations since the last boot."""
        return int(self._c.tlc_twin_operations(self._memory))

    @property
    def dead(self) -> bool:
        """Whether the power has failed; :meth:`reboot` brings it back."""
        return bool(self._c.tlc_twin_dead(self._memory))

    # ---- the model, called directly ----

    def forward(self, *inputs: NDArray[np.int8]) -> list[NDArray[np.int8]]:
        """The device segment on any number of samples: inputs and outputs are (samples, ...) in the device's layout."""
        count = len(inputs[0])
        flat = [np.ascontiguousarray(x, np.int8).reshape(count, -1) for x in inputs]
        joined = np.ascontiguousarray(np.concatenate(flat, axis=1)) if len(flat) > 1 else flat[0]
        assert joined.shape[1] == self._c.tlc_twin_input_bytes(), "inputs of another shape"
        sizes = [int(np.prod(edge.shape)) for edge in self.bundle.outputs]
        out = np.empty((count, sum(sizes)), np.int8)
        self._check(
            self._c.tlc_twin_forward_many(self._memory, _pointer(joined), _pointer(out), ctypes.c_size_t(count))
        )
        parts = np.split(out, np.cumsum(sizes)[:-1], axis=1)
        return [part.reshape(count, *edge.shape[1:]) for part, edge in zip(parts, self.bundle.outputs, strict=True)]

    def backward(self, gradient: NDArray[np.float32], step: OptimizerStep | None = None) -> None:
        """Adds the gradient of the sample of the last :meth:`forward`, which must have been of one sample.

        Args:
            gradient: float32, at the output, or where the loss is on the device before its softmax.
            step: where updates are interleaved, what they are told.
        """
        gradient = np.ascontiguousarray(gradient, np.float32)
        assert gradient.size == np.prod(self.bundle.outputs[0].shape), "a gradient of another shape"
        told = ctypes.byref(step) if step is not None else None
        self._check(self._c.tlc_twin_backward(self._memory, _pointer(gradient), told))

    def head(self) -> NDArray[np.int8]:
        """What the head at the cut says of the sample of the last :meth:`forward`, (1, ...): probabilities in 1/256 - 128.

        Raises:
            DeviceError: there is no head.
        """
        ends = self.bundle.aux
        out = np.empty(ends.shape if ends else (1,), np.int8)
        self._check(self._c.tlc_twin_head(self._memory, _pointer(out)))
        return out

    def learn(
        self,
        target: int | NDArray[np.float32],
        step: OptimizerStep | None = None,
        gradient: NDArray[np.float32] | None = None,
    ) -> tuple[float, int]:
        """:meth:`backward` with the gradient of the device's own loss.

        Args:
            target: a class; or, of a mean squared error, values of the output's shape.
            gradient: float32, of a device with a head at the cut: what comes to the loss's gradient there.
            step: where updates are interleaved, what they are told.

        Returns:
            The loss, and the class that the device took it for.

        Raises:
            DeviceError: no such class, or the device has no loss.
        """
        values = np.ascontiguousarray(target, np.float32) if isinstance(target, np.ndarray) else None
        whole = np.ascontiguousarray(gradient, np.float32) if gradient is not None else None
        assert whole is None or whole.size == self._c.tlc_twin_gradient_elements(), "a gradient of another shape"
        loss, predicted = ctypes.c_float(), ctypes.c_uint32()
        self._check(
            self._c.tlc_twin_learn(
                self._memory,
                ctypes.c_uint32(0 if values is not None else int(target)),
                _pointer(values) if values is not None else None,
                _pointer(whole) if whole is not None else None,
                ctypes.byref(step) if step is not None else None,
                ctypes.byref(loss),
                ctypes.byref(predicted),
            )
        )
        return loss.value, predicted.value

    def tail(
        self, x: NDArray[np.int8], label: int | None = None
    ) -> tuple[NDArray[np.int8], NDArray[np.float32], float, int]:
        """The part of a U-shaped segment behind the host's, after :meth:`forward` of one sample; with a label its loss and
        backward pass, too, and then :meth:`backward` is to follow.

        Args:
            x: int8, what the host's part made of the sample, in the device's layout.

        Returns:
            The network's output; and where there is a label the gradient of ``x``, the loss, and the class that the
            device took it for.

        Raises:
            DeviceError: there is no such part or class, or no forward pass.
        """
        ends = self.bundle.tail
        if ends is None:
            raise DeviceError("has nothing behind the host's part", where=f"twin of {self.library.directory}")
        x = np.ascontiguousarray(x, np.int8)
        assert x.size == np.prod(ends.input.shape), "a tensor of another shape"
        out, gradient = np.empty(ends.output.shape, np.int8), np.zeros(ends.input.shape, np.float32)
        loss, predicted = ctypes.c_float(), ctypes.c_uint32()
        told = ctypes.byref(ctypes.c_uint32(label)) if label is not None else None
        self._check(
            self._c.tlc_twin_tail(
                self._memory,
                _pointer(x),
                _pointer(out),
                told,
                ctypes.byref(loss),
                ctypes.byref(predicted),
                _pointer(gradient),
            )
        )
        return out, gradient, loss.value, predicted.value

    def update(
        self,
        learning_rate: float,
        step: int,
        seed: int,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 0.0,
    ) -> None:
        """One optimizer step on the gradients accumulated so far."""
        told = OptimizerStep(learning_rate, step, seed, momentum, weight_decay, clip, 0.0)
        self._check(self._c.tlc_twin_update(self._memory, ctypes.byref(told)))

    def params(self) -> dict[str, NDArray[Any]]:
        """The learned tensors' integers, by name."""
        raw = np.zeros(int(self._c.tlc_twin_param_bytes()), np.uint8)
        self._check(self._c.tlc_twin_get_params(self._memory, _pointer(raw)))
        result = {}
        for learned in self.bundle.learned:
            size = learned.elements * (1 if learned.dtype == "int8" else 4)
            result[learned.name] = (
                raw[learned.offset : learned.offset + size].view(learned.dtype).reshape(learned.shape)
            )
        return result

    def set_params(self, raw: bytes) -> None:
        """Replaces the learned tensors, all of them as they lie in a parameter message."""
        assert len(raw) == int(self._c.tlc_twin_param_bytes()), "parameters of another size"
        self._check(self._c.tlc_twin_set_params(self._memory, raw))

    # ---- the main loop ----

    def receive(self, data: bytes) -> int:
        """Bytes from the host; how many the device's buffer took."""
        return int(self._c.tlc_twin_receive(self._memory, data, ctypes.c_size_t(len(data))))

    def poll(self, now_ms: int) -> bool:
        """One turn of the main loop; whether something was done."""
        return bool(self._c.tlc_twin_poll(self._memory, ctypes.c_uint32(now_ms & 0xFFFFFFFF)))

    def send(self, capacity: int = 4096) -> bytes:
        """Bytes to the host."""
        buffer = ctypes.create_string_buffer(capacity)
        count = int(self._c.tlc_twin_send(self._memory, buffer, ctypes.c_size_t(capacity)))
        return buffer.raw[:count]

    def sample(self, values: NDArray[np.float32], label: int | None = None) -> None:
        """Gives the application's sensor its next sample, and what it is where that is known."""
        values = np.ascontiguousarray(values, np.float32)
        assert values.size == self._c.tlc_twin_input_bytes(), "a sample of another size"
        self._c.tlc_twin_sample(self._memory, _pointer(values))
        if label is not None:
            self._c.tlc_twin_label(self._memory, ctypes.c_uint32(label), NO_LEARNING)

    def result(self) -> NDArray[np.float32] | None:
        """What the application's result hook was given, once; None where there is nothing new."""
        values = np.empty(RESULTS, np.float32)
        count = int(self._c.tlc_twin_result(self._memory, _pointer(values), ctypes.c_uint32(values.size)))
        return None if count < 0 else values[: min(count, RESULTS)].copy()

    def _check(self, status: int) -> None:
        if status != 0:
            names = ["ok", "argument", "state", "size", "corrupt", "version", "bundle", "numeric", "full"]
            what = names[status] if 0 <= status < len(names) else str(status)
            raise DeviceError(f"answered with status '{what}'", where=f"twin of {self.library.directory}")


@contextmanager
def kept_twin(directory: Path, boot: int = 1, cut: str | None = None) -> Iterator[Twin]:
    """A twin whose flash is a file of the project, so that what it saves is there the next time.

    One process at a time has the file; for another, and where it cannot be written, the twin keeps nothing.
    """
    import fcntl

    library = TwinLibrary(directory, cut=cut)
    shape = library.blank_flash().shape
    path = Path(directory) / FLASH_DIR / "twin.bin"
    if not shape[1]:
        yield library.create(boot)
        return
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("a+b")
    except OSError:
        yield library.create(boot)
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield library.create(boot)
            return
        if path.stat().st_size != shape[0] * shape[1]:
            path.write_bytes(library.blank_flash().tobytes())
        flash = np.memmap(path, np.uint8, "r+", shape=shape)
        try:
            yield library.create(boot, flash)
        finally:
            if (flash == 0xFF).all():  # nothing was ever saved
                with suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
