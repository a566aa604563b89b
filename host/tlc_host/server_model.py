# SPDX-License-Identifier: Apache-2.0
"""The host's half of a split network: inference by ONNX Runtime, training by TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tlc import bundle as bundles
from tlc.bundle import HOST_FILE, Bundle
from tlc.errors import ConfigError, DataError
from tlc_host.model.optimizers import Settings

if TYPE_CHECKING:
    from tlc_host.model.trainer import Trainer

__all__ = ["TRAINED_FILE", "ServerModel", "StepResult"]

P = ParamSpec("P")
R = TypeVar("R")

TRAINED_FILE = "host.trained.onnx"
"""In a project: the host segment as ``tlc train`` left it."""

Float = NDArray[np.float32]


def _alone(
    method: Callable[Concatenate[ServerModel, P], R],
) -> Callable[Concatenate[ServerModel, P], R]:
    """One thread at a time: a device's sample may be answered while another trains."""

    def locked(self: ServerModel, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    functools.update_wrapper(locked, method)
    return locked


@dataclass(frozen=True)
class StepResult:
    """What a training step of the host segment gives."""

    loss: float
    correct: int
    gradient: Float
    """d loss / d smashed, in the device's layout: (samples, ...)."""


class ServerModel:
    """The host segment of a bundle. Smashed data comes and gradients go in the device's layout. Thread-safe.

    Args:
        directory: the project that ``tlc compile`` wrote.
        trained: with the weights that ``tlc train`` left there.
        settings: how it learns; None: plain SGD.
        cut: of several cuts the one behind which it begins; None: the bundle's own.

    Raises:
        UsageError: the project has no such cut.
        BundleError: the project is damaged.
        DataError: it was not trained.
    """

    def __init__(
        self, directory: Path, *, trained: bool = False, settings: Settings | None = None, cut: str | None = None
    ) -> None:
        self.directory = Path(directory)
        self.settings = settings or Settings()
        self.bundle: Bundle = bundles.load(directory, cut)
        self._onnx: bytes | None = self._read(trained) if self.bundle.split else None
        self._session: Any = None
        self._trainer: Trainer | None = None
        self._lock = threading.RLock()

    def _read(self, trained: bool) -> bytes:
        path = self.trained_file if trained else self.directory / self.bundle.host_file
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"there is no trained host segment ({error.strerror})",
                where=str(path),
                remedy="train it first: tlc train DIR --data FILE.npz",
            ) from None

    @property
    def trained_file(self) -> Path:
        """Where ``tlc train`` leaves it."""
        name = self.bundle.host_file
        return self.directory / (TRAINED_FILE if name == HOST_FILE else f"{name.removesuffix('.onnx')}.trained.onnx")

    @_alone
    def onnx(self) -> bytes:
        """The host segment with its weights as they are now.

        Raises:
            DataError: there is none.
        """
        if self._onnx is None:
            raise DataError("the whole network is on the device", remedy="compile with another --cut")
        return self._trainer.module.onnx() if self._trainer else self._onnx

    @_alone
    def infer(self, smashed: NDArray[np.int8]) -> list[Float]:
        """The network's outputs in the model file's order, for (samples, ...) int8 tensors at the cut."""
        edge = self.bundle.outputs[0]
        real = edge.to_file(smashed)
        if self._onnx is None:
            return [real]
        session = self._runtime()
        name = session.get_inputs()[0].name
        if _fixed_batch(session):
            parts = [session.run(None, {name: real[i : i + 1]}) for i in range(len(real))]
            return [np.concatenate(column) for column in zip(*parts, strict=True)]
        return list(session.run(None, {name: real}))

    @_alone
    def configure(self, settings: Settings) -> None:
        """Other settings from now on. Weights stay; where training had begun, the optimizer begins anew."""
        if settings == self.settings:
            return
        weights = self._trainer.module.arrays() if self._trainer else {}
        self.settings, self._trainer = settings, None
        if weights:
            self.set_weights(weights)

    def require_trainable(self) -> None:
        """Refuses a project that cannot be trained by both sides.

        Raises:
            ConfigError: there is no host segment, or nothing learns on the device.
        """
        if not self.bundle.split:
            raise ConfigError(
                "the whole network is on the device: there is no host segment to train",
                where=str(self.directory),
                remedy="compile with another --cut",
            )
        if not self.bundle.trains:
            raise ConfigError(
                "nothing learns on the device", where=str(self.directory), remedy="compile with --train last"
            )

    def check_labels(self, labels: NDArray[Any], where: str = "") -> None:
        """Holds labels to the network's classes.

        Raises:
            DataError: one is out of range.
        """
        if labels.min() < 0 or labels.max() >= self.classes > 0:
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()}, but the network has {self.classes} classes",
                where=where,
                remedy="number the classes from 0",
            )

    # ---- training ----------------------------------------------------------------------------------------------------

    @_alone
    def gradient(self, smashed: NDArray[np.int8], labels: NDArray[Any], *, loss: str = "cross_entropy") -> StepResult:
        """A batch's mean loss and its gradients at the weights as they are; :meth:`apply` steps.

        May be called several times before a step: then the step is on the mean over all samples.

        Args:
            smashed: (samples, ...) int8 at the cut.
            labels: (samples,) class numbers; for the losses ``mse`` and ``binary_cross_entropy`` the wanted first output.
            loss: a key of :data:`tlc_host.model.losses.LOSSES`.

        Raises:
            DataError: a label is out of range, or there is no host segment.
            UnsupportedOperator: the segment holds an operator that cannot be trained.
        """
        trainer = self._training()
        if loss == "cross_entropy":
            self.check_labels(labels)
        result = trainer.gradient(self._to_file(smashed), labels, loss)
        return StepResult(result.loss, result.correct, self._from_file(result.gradient))

    @_alone
    def forward(self, smashed: NDArray[np.int8], *, logits: bool = False) -> Float:
        """The first output as training sees it; with ``logits`` what its softmax (or sigmoid) reads.

        Raises:
            UnsupportedOperator: the segment holds an operator that cannot be trained.
        """
        return self._training().forward(self._to_file(smashed), logits=logits)

    @_alone
    def backward(
        self, smashed: NDArray[Any], gradient: Float, *, logits: bool = False, samples: int | None = None
    ) -> Float:
        """d loss / d smashed from d loss / d output, for losses that lie elsewhere: U-shaped splits, aggregated gradients.

        Runs the segment forward again on ``smashed``. The weights' gradients add up until :meth:`apply`, which divides
        their sum by the samples: so a call's ``gradient`` is that of the mean loss over its samples.

        Args:
            smashed: in units of the device's integers; not whole where it is a mean.
            samples: that the call counts as; None: its own.

        Raises:
            UnsupportedOperator: the segment holds an operator that cannot be trained.
        """
        trainer = self._training()
        return self._from_file(trainer.backward(self._to_file(smashed), gradient, logits=logits, samples=samples))

    @_alone
    def discard(self) -> None:
        """Forgets the gradients since the last step."""
        self._training().discard()

    @_alone
    def apply(self, learning_rate: float | None = None) -> float:
        """One optimizer step on the mean gradient since the last one; gives that gradient's norm before clipping.

        Args:
            learning_rate: instead of the settings'; the schedule's factor is on it all the same.

        Raises:
            DataError: there is no gradient.
        """
        norm = self._training().apply(learning_rate)
        self._session = None  # its weights are old now
        return norm

    @_alone
    def gradients(self) -> dict[str, Float]:
        """The mean gradient since the last step, by parameter."""
        return self._training().gradients()

    @_alone
    def weights(self) -> dict[str, NDArray[Any]]:
        """Parameters and running statistics as they are now: what algorithms average."""
        return self._training().module.arrays()

    @_alone
    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Sets some or all of :meth:`weights`; the optimizer's state stays.

        Raises:
            ModelError: a name or a shape is not the segment's.
        """
        self._training().module.load(weights)
        self._session = None

    # ---- state -------------------------------------------------------------------------------------------------------

    @_alone
    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on: weights, optimizer, random state; empty where training has not begun."""
        return self._trainer.state() if self._trainer else {}

    @_alone
    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Back to a snapshot.

        Raises:
            DataError: it is of another model, optimizer or seed.
        """
        self._session = None
        if not snapshot:
            self._trainer = None
        else:
            self._training().restore(snapshot)

    @_alone
    def save(self) -> bytes:
        """:meth:`snapshot` as the bytes of an ``.npz``, the same for the same state."""
        stream = io.BytesIO()
        np.savez(stream, **{"tlc/segment": np.array(self.fingerprint), **self.snapshot()})  # type: ignore[arg-type]
        return stream.getvalue()

    @_alone
    def load(self, content: bytes) -> None:
        """Back to what :meth:`save` gave.

        Raises:
            DataError: it is damaged, or of another project, optimizer or seed.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            fingerprint = str(state.pop("tlc/segment"))
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"a host segment's state is damaged: {error}", remedy="take an older checkpoint") from None
        if fingerprint != self.fingerprint:
            raise DataError(
                f"the state is of another host segment ({fingerprint[:16]}, not {self.fingerprint[:16]})",
                where=str(self.directory),
                remedy="take the project that it was saved with",
            )
        self.restore(state)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the host segment as it began."""
        return hashlib.sha256(self._onnx or b"").hexdigest()

    def _training(self) -> Trainer:
        if self._trainer is None:
            if self._onnx is None:
                raise DataError(
                    "the whole network is on the device: there is no host segment to train",
                    remedy="compile with another --cut",
                )
            from tlc.learn import quiet_tensorflow

            quiet_tensorflow()
            from tlc_host.model.trainer import Trainer

            self._trainer = Trainer(self._onnx, self.settings, str(self.directory / self.bundle.host_file))
        return self._trainer

    def _to_file(self, smashed: NDArray[Any]) -> Float:
        return self.bundle.outputs[0].to_file(smashed)

    def _from_file(self, gradient: Float) -> Float:
        edge = self.bundle.outputs[0]
        return edge.origin.from_file(gradient, edge.shape)

    @cached_property
    def classes(self) -> int:
        """Values of the network's first output; 0 where the model file leaves its shape open."""
        if self.bundle.tail is not None:
            return math.prod(self.bundle.tail.output.shape)
        if self._onnx is None:
            return math.prod(self.bundle.outputs[0].shape)
        import onnx

        dims = onnx.load_model_from_string(self._onnx).graph.output[0].type.tensor_type.shape.dim
        return math.prod(dim.dim_value for dim in list(dims)[1:])

    def _runtime(self) -> Any:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            content = self.onnx()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return self._session


def _fixed_batch(session: Any) -> bool:
    shape = session.get_inputs()[0].shape
    return bool(shape) and shape[0] == 1
