# SPDX-License-Identifier: Apache-2.0
"""What a device has learned outlives a reset, whenever the power fails; divergence is refused and rolled back; learned
tensors travel as differences; ``tlc weights`` and ``tlc train``."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import refused, succeeds
from tlc import boards, hostbuild, toolchain
from tlc import bundle as bundles
from tlc.errors import ConfigError, DataError, DeviceError, DeviceReset, ProtocolError
from tlc.twin import Twin, TwinLibrary, kept_twin
from tlc_host import messages as m
from tlc_host import weights
from tlc_host.session import Session
from tlc_host.store import Store
from tlc_host.transports.memory import MemoryTransport


@pytest.fixture(scope="module")
def project(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small.onnx`` up to its second convolution, which learns: 864 weights and 24 biases."""
    return compiled(models, tmp_path_factory.mktemp("journal") / "project")


def compiled(models: Path, out: Path, *options: object) -> Path:
    succeeds(
        "compile", models / "small.onnx", "--board", "qemu-m4", "--calib", models / "x.npz",
        "--cut", "conv2d_1_out", "--train", "last", "--out", out, *options,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def library(project: Path) -> TwinLibrary:
    return TwinLibrary(project, sanitize=True)


@pytest.fixture(scope="module", params=["float", "int"])
def remembering(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> TwinLibrary:
    """The same with velocities and residuals."""
    options = ("--momentum", "--rounding", "feedback", "--train-arithmetic", request.param)
    return TwinLibrary(compiled(models, tmp_path_factory.mktemp(request.param) / "project", *options), sanitize=True)


@pytest.fixture
def mine(project: Path, tmp_path: Path) -> Path:
    """A copy of the project, to keep things in."""
    return shutil.copytree(project, tmp_path / "project")


@asynccontextmanager
async def session(twin: Twin, **options: Any) -> AsyncIterator[Session]:
    async def opener() -> MemoryTransport:
        return MemoryTransport(twin.receive, twin.send, twin.poll)

    async with await Session.connect(opener, bytes.fromhex(twin.bundle.hash), name="twin", **options) as connected:
        yield connected


def with_session(twin: Twin, work: Callable[[Session], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with session(twin, **options) as connected:
            return await work(connected)

    return asyncio.run(asyncio.wait_for(run(), 30))


def raw(twin: Twin) -> bytes:
    return weights.pack(twin.bundle, twin.params())


def some(twin: Twin, seed: int, spread: float = 4.0) -> bytes:
    """Learned tensors not far from the values in flash."""
    rng = np.random.default_rng(seed)
    begun = weights.unpack(twin.bundle, weights.initial_params(twin.library.directory))
    moved = {
        name: np.clip(
            values + np.rint(rng.normal(0, spread, values.shape)).astype(np.int64) * (rng.random(values.shape) < 0.4),
            -127 if values.dtype == np.int8 else -(2**30),
            127 if values.dtype == np.int8 else 2**30,
        ).astype(values.dtype)
        for name, values in begun.items()
    }
    return weights.pack(twin.bundle, moved)


async def learn(device: Session, step: int, *, size: float = 0.02, **options: Any) -> m.Done:
    rng = np.random.default_rng(step)
    x = rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
    reply = await device.forward(x)
    gradient = np.clip(rng.normal(0, size, reply.outputs[0].size), -3e38, 3e38)
    if options.get("momentum"):
        await device.backward(reply, np.clip(np.rint(32 * gradient / size), -127, 127).astype(np.int8), scale=size / 32)
    else:
        await device.backward(reply, gradient.astype(np.float32))
    return await device.step(step, 0.05, 3, **options)


# ---- resets ----


def test_what_is_saved_outlives_a_reset_and_nothing_else(library: TwinLibrary) -> None:
    twin = library.create(1, library.blank_flash())

    async def work(device: Session) -> None:
        assert device.hello.capabilities & m.Capability.SAVE
        assert (await device.journal()).status == m.Status.STATE
        await learn(device, 1)
        assert not (await learn(device, 2)).flags
        assert (await learn(device, 3, save=True)).flags & m.DoneFlag.SAVED
        kept = await device.get_params()
        assert not await device.save()  # it is there already
        await learn(device, 4)
        assert await device.get_params() != kept
        twin.reboot(2)
        with pytest.raises(DeviceReset):
            await device.stats()
        hello = await device.greet()
        assert hello.last_step == 3 and await device.get_params() == kept
        assert (await learn(device, 3)).flags & m.DoneFlag.REPEATED
        await learn(device, 4)
        assert await device.save()
        journal = await device.journal()
        assert (journal.saved_step, journal.sequence, journal.wear_a, journal.wear_b) == (4, 2, 1, 1)
        assert (journal.slot_a, journal.slot_b, journal.saves) == (m.Slot.OURS, m.Slot.OURS, 1)

    with_session(twin, work)


def test_reset_state_clears_the_journal(library: TwinLibrary) -> None:
    twin = library.create(1, library.blank_flash())
    begun = raw(twin)

    async def work(device: Session) -> None:
        for step in (1, 2):
            await learn(device, step, save=True)
        await device.reset_state()
        assert await device.get_params() == begun
        assert (await device.journal()).length == 0

    with_session(twin, work)
    twin.reboot(2)
    assert raw(twin) == begun


def test_the_power_fails_at_every_operation_of_a_save(library: TwinLibrary) -> None:
    flash = library.blank_flash()
    twin = library.create(1, flash)
    twin.set_params(some(twin, 1))
    twin.save()
    old, new = raw(twin), some(twin, 2)
    assert old != new
    before = flash.copy()
    found = {"old": 0, "new": 0}
    cut = 0
    while True:
        flash[:] = before
        twin.reboot(10 + 2 * cut)
        twin.set_params(new)
        twin.cut_power(cut)
        try:
            twin.save()
        except DeviceError:
            assert twin.dead
        else:
            assert not twin.dead
            break
        twin.reboot(11 + 2 * cut)
        now = raw(twin)
        assert now in (old, new), f"cut at operation {cut}"
        found["new" if now == new else "old"] += 1
        cut += 1
    assert cut > 400 and found["old"] > 400
    twin.reboot(5)
    assert raw(twin) == new


def test_the_optimizers_memory_takes_what_it_must(library: TwinLibrary, remembering: TwinLibrary) -> None:
    """Nothing without momentum; else velocities and residuals, which the promise of the journal counts, and which what is
    written to the learned tensors forgets."""
    plain, twin = library.create(1, library.blank_flash()), remembering.create(1, remembering.blank_flash())
    learning = twin.bundle.learning
    assert learning is not None
    sizes = {"weight": 864, "bias": 24}
    memory = sum(count * learning.memory_bytes(kind == "weight") for kind, count in sizes.items())
    assert twin.flash is not None and plain.flash is not None
    assert memory == (864 * 5 + 24 * 4 if learning.arithmetic == "float" else 864 * 3 + 24 * 4)
    assert twin.flash.shape[1] - plain.flash.shape[1] >= memory // 4096 * 4096

    async def saved(device: Session, **options: Any) -> int:
        await learn(device, 1, save=True, **options)
        return int((await device.journal()).length)

    most = sum(1 + entry.nbytes for entry in twin.bundle.learned)
    assert with_session(plain, saved) <= most
    full = with_session(twin, lambda device: saved(device, momentum=0.9))
    assert memory * 0.9 < full <= most + memory + 16

    async def forgotten(device: Session) -> int:
        await device.set_params(await device.get_params())
        await device.save()
        return int((await device.journal()).length)

    assert with_session(twin, forgotten) <= most


def test_a_power_cut_in_the_main_loop(library: TwinLibrary) -> None:
    """In the middle of a SAVE the device falls silent; it comes back with what it had, and is asked again."""
    twin = library.create(1, library.blank_flash())

    async def work(device: Session) -> None:
        await learn(device, 1, save=True)
        kept = await device.get_params()
        await learn(device, 2)
        twin.cut_power(90)
        asked = asyncio.create_task(device.save())
        while not twin.dead:
            await asyncio.sleep(0)
        twin.reboot(2)
        with pytest.raises(DeviceReset):
            await asked
        assert (await device.greet()).last_step == 1
        assert await device.get_params() == kept

    with_session(twin, work)


def test_bits_flip_in_the_newest_entry(library: TwinLibrary) -> None:
    flash = library.blank_flash()
    twin = library.create(1, flash)
    kept = [raw(twin)]
    for seed in (1, 2):
        twin.set_params(some(twin, seed))
        twin.save()
        kept.append(raw(twin))
    rng = np.random.default_rng(0)
    previous = 0
    for bit in rng.integers(32 * 8, 600 * 8, 200):
        flash[1, bit // 8] ^= 1 << bit % 8
        twin.reboot(int(bit))
        assert raw(twin) in kept[1:]
        previous += raw(twin) == kept[1]
        flash[1, bit // 8] ^= 1 << bit % 8
    assert previous > 100
    flash[:, 100] ^= 4
    twin.reboot(3)
    assert raw(twin) == kept[0]


def test_a_hundred_saves_wear_both_slots_alike(library: TwinLibrary) -> None:
    twin = library.create(1, library.blank_flash())
    for seed in range(100):
        twin.set_params(some(twin, seed))
        twin.save()
    twin.reboot(2)
    status = with_session(twin, weights.status)
    assert status["erasures"] == [50, 50] and status["sequence"] == 100 and status["journal"] == "in use"


def test_another_bundles_journal_is_told_of_and_left_alone(library: TwinLibrary, models: Path, tmp_path: Path) -> None:
    flash = library.blank_flash()
    first = library.create(1, flash)
    first.set_params(some(first, 1))
    first.save()
    before = flash.copy()
    other = Twin(compiled(models, tmp_path / "other", "--seed", 9), 2, flash)
    said: list[str] = []

    async def work(device: Session) -> None:
        assert device.hello.last_step == 0
        assert (await weights.status(device))["journal"] == "of another bundle: ignored"
        assert np.array_equal(flash, before)
        await learn(device, 1, save=True)

    with_session(other, work, on_log=lambda level, text: said.append(text))
    assert any("another bundle's" in line for line in said)
    assert raw(other) != weights.initial_params(tmp_path / "other")
    first.reboot(3)  # both are there, each for its own bundle
    assert raw(first) == some(first, 1)


def test_without_flash(library: TwinLibrary) -> None:
    async def work(device: Session) -> None:
        with pytest.raises(DeviceError, match="no flash to keep") as refusal:
            await device.save()
        assert refusal.value.status == m.Status.STATE
        with pytest.raises(ConfigError, match="leave --save out"):
            weights.require_journal(device)
        assert not (await learn(device, 1, save=True)).flags  # the step counts all the same
        assert (await device.stats()).last_step == 1
        await device.reset_state()

    with_session(library.create(1), work)


def test_a_slot_too_small(library: TwinLibrary) -> None:
    said: list[str] = []
    twin = library.create(1, np.full((2, 256), 0xFF, np.uint8))

    async def work(device: Session) -> None:
        await device.set_params(some(twin, 1, spread=60))
        with pytest.raises(DeviceError, match="more than a slot") as refusal:
            await device.save()
        assert refusal.value.status == m.Status.SIZE
        await learn(device, 1, save=True)
        await device.stats()

    with_session(twin, work, on_log=lambda level, text: said.append(text))
    assert any("more than a slot" in line for line in said)


# ---- divergence ----


@pytest.mark.parametrize("saved", [False, True])
def test_divergence_is_refused_and_rolled_back(library: TwinLibrary, saved: bool) -> None:
    twin = library.create(1, library.blank_flash())
    said: list[str] = []

    async def refuses(device: Session, what: str, step: int, **how: Any) -> None:
        with pytest.raises(DeviceError, match=what) as refusal:
            await learn(device, step, **how)
        assert refusal.value.status == m.Status.NUMERIC

    async def work(device: Session) -> None:
        if saved:
            await learn(device, 5, save=True)
        kept = await device.get_params()
        await learn(device, 6)
        await learn(device, 7, max_norm=100.0)
        for number, (what, how) in enumerate(
            [
                ("its norm is above the bound", {"max_norm": 1e-3}),
                ("not finite", {"size": 3e38}),  # the sum over positions is infinite
                ("end of their range", {"size": 30.0}),
            ]
        ):
            await refuses(device, what, 10 + number, **how)
            assert await device.get_params() == kept
            stats = await device.stats()
            assert (stats.last_step, stats.samples) == (5 if saved else 0, 0)
            await learn(device, 20 + number)  # life goes on
            await device.set_params(kept, step=5 if saved else 0)
        assert (await device.journal()).rollbacks == 3

    with_session(twin, work, on_log=lambda level, text: said.append(text))
    assert all(("last entry" if saved else "values in flash") in line for line in said) and len(said) == 3


def test_a_step_that_is_sound_is_the_same_with_the_watch(library: TwinLibrary) -> None:
    """The device's loop and the model called directly: the same bits."""
    watched, direct = library.create(1), library.create(2)

    async def work(device: Session) -> bytes:
        for step in range(1, 6):
            await learn(device, step, max_norm=50.0)
        return await device.get_params()

    for step in range(1, 6):
        rng = np.random.default_rng(step)
        out = direct.forward(rng.integers(-128, 128, (1, 8, 8, 1)).astype(np.int8))[0]
        direct.backward(rng.normal(0, 0.02, out.size).astype(np.float32))
        direct.update(0.05, step, 3)
    assert with_session(watched, work) == raw(direct)


# ---- differences on the link ----


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.3, 1.0]), st.sampled_from([1, 7, 60, 400]))
def test_host_and_device_code_alike(library: TwinLibrary, seed: int, part: float, most: int) -> None:
    twin = library.create(1)
    rng = np.random.default_rng(seed)
    begun = weights.initial_params(library.directory)
    moved = {
        name: np.where(rng.random(values.shape) < part, values + rng.integers(-most, most + 1, values.shape), values)
        for name, values in weights.unpack(twin.bundle, begun).items()
    }
    wanted = weights.pack(twin.bundle, {name: values.astype(np.int64) & 0xFFFFFFFF for name, values in moved.items()})

    async def work(device: Session) -> None:
        await device.set_params(wanted, step=4)
        data = await device.get_delta()
        assert data == weights.encode_delta(twin.bundle, begun, wanted)
        assert weights.apply_delta(twin.bundle, begun, data) == wanted
        await device.reset_state()
        assert await device.set_delta(data, step=9)
        assert await device.get_params() == wanted
        assert (await device.stats()).last_step == 9

    with_session(twin, work)


def test_damaged_differences(library: TwinLibrary) -> None:
    twin = library.create(1)
    begun = weights.initial_params(library.directory)
    data = weights.encode_delta(twin.bundle, begun, some(twin, 1))

    async def work(device: Session) -> None:
        for bad in (data[:-1], data + b"\0", b"\x07" + data[1:], b"\1\xff", b""):
            with pytest.raises(ProtocolError):
                weights.decode_delta(twin.bundle, bad)
            with pytest.raises(DeviceError, match="no differences of these") as refusal:
                await device.set_delta(bad)
            assert refusal.value.status == m.Status.CORRUPT
            assert await device.get_params() == begun

    with_session(twin, work)


def test_pull_push_and_some_of_them(library: TwinLibrary, tmp_path: Path) -> None:
    twin = library.create(1)
    directory = library.directory
    bare = tmp_path  # a project that does not tell the first values: whole tensors travel

    async def work(device: Session) -> None:
        bundle = twin.bundle
        wanted = weights.unpack(bundle, some(twin, 3))
        for place in (directory, bare):
            await device.reset_state()
            sent = await weights.push(device, bundle, place, wanted, step=2)
            assert (sent < bundle.param_bytes) == (place == directory)
            found = await weights.pull(device, bundle, place)
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        name = next(iter(wanted))
        part = {name: np.zeros_like(wanted[name])}
        await weights.push(device, bundle, directory, part)
        found = await weights.pull(device, bundle, directory)
        assert not found[name].any()
        assert all(np.array_equal(found[other], wanted[other]) for other in wanted if other != name)

    with_session(twin, work)


# ---- what is kept between runs ----


def test_the_twins_flash_is_a_file_that_one_has(mine: Path) -> None:
    with kept_twin(mine) as twin:
        twin.set_params(some(twin, 1))
        twin.save()
        kept = raw(twin)
        with kept_twin(mine) as second:
            assert second.flash is None and raw(second) != kept
    with kept_twin(mine) as twin:
        assert raw(twin) == kept


def test_the_native_device_keeps_its_journal_in_a_file(mine: Path) -> None:
    program = hostbuild.build_native(mine)
    bundle = bundles.load(mine)
    native = boards.load("native")
    flash = mine / "flash.bin"

    async def run(file: Path | None, work: Callable[[Session], Awaitable[Any]]) -> Any:
        with toolchain.start(native, program, flash=file) as process:
            address = f"tcp://{process.host}:{process.port}"
            async with await Session.connect(address, bytes.fromhex(bundle.hash), timeout_s=20) as device:
                return await work(device)

    async def save(device: Session) -> bytes:
        await learn(device, 1, save=True)

        async def beside(other: Session) -> None:
            assert not other.hello.capabilities & m.Capability.SAVE  # the file is taken

        await run(flash, beside)
        return await device.get_params()

    async def load(device: Session) -> tuple[int, bytes]:
        return device.hello.last_step, await device.get_params()

    kept = asyncio.run(run(flash, save))
    assert asyncio.run(run(flash, load)) == (1, kept)
    assert asyncio.run(run(None, load))[0] == 0
    flash.write_bytes(flash.read_bytes()[:200])  # a file cut short is a torn slot
    assert asyncio.run(run(flash, load))[0] == 0


# ---- files ----


def test_files_that_do_not_fit(library: TwinLibrary, tmp_path: Path) -> None:
    bundle = library.bundle
    name = bundle.learned[0].name
    good = weights.unpack(bundle, weights.initial_params(library.directory))
    path = tmp_path / "w.npz"
    weights.write_file(path, good)
    assert all(np.array_equal(good[key], value) for key, value in weights.read_file(path, bundle).items())
    for arrays, says in [
        ({name + "s": good[name]}, rf"no tensor of this name.*did you mean {name}"),
        ({name: good[name][:-1]}, r"has shape .* but on the device it is"),
        ({name: good[name].astype(np.float32)}, r"float32.*round\(real / scale\)"),
        ({name: good[name].astype(np.int64) + 300}, "the device takes -128 to 127"),
        ({}, "holds no array"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=says):
            weights.read_file(path, bundle)


# ---- the command line ----


def test_weights_on_the_command_line(mine: Path, tmp_path: Path) -> None:
    bundle = bundles.load(mine)
    pulled, other = tmp_path / "pulled.npz", tmp_path / "other.npz"
    done = succeeds("weights", "pull", mine, "--output", pulled, "--json").json
    assert [row["name"] for row in done["tensors"]] == [entry.name for entry in bundle.learned]
    begun = weights.read_file(pulled, bundle)
    name = bundle.learned[0].name
    weights.write_file(other, {name: np.clip(begun[name].astype(np.int64) + 3, -127, 127).astype(np.int8)})
    done = succeeds("weights", "push", mine, "--input", other, "--save", "--json").json
    assert done["saved"] and 0 < done["bytes"] < bundle.param_bytes and done["tensors"] == [name]
    for against, changed in ((None, True), (pulled, True), (other, False)):
        options = ["--against", against] if against else []
        rows = succeeds("weights", "diff", mine, *options, "--json").json["tensors"]
        assert [row["changed"] > 0 for row in rows] == ([changed, False] if against != other else [False])
        assert rows[0]["largest"] == (3 if changed else 0)
    assert "mean |difference|" in succeeds("weights", "diff", mine).out
    status = succeeds("weights", "status", mine, "--json").json
    assert (status["journal"], status["erasures"], status["rollbacks_since_boot"]) == ("in use", [1, 0], 0)
    assert "in use" in succeeds("weights", "status", mine).out
    assert not succeeds("weights", "save", mine, "--json").json["saved"]
    succeeds("weights", "reset", mine)
    assert succeeds("weights", "diff", mine, "--json").json["tensors"][0]["changed"] == 0
    assert succeeds("weights", "status", mine, "--json").json["journal"] == "empty"


def test_weights_refuses(mine: Path, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", nonsense=np.zeros(3, np.int8))
    refused(
        tmp_path, 1, "weights", "push", mine, "--input", tmp_path / "w.npz", says=("nonsense", "known: ", "w.npz")
    )  # fmt: skip
    refused(tmp_path, 1, "weights", "pull", mine, "--output", tmp_path / "w.txt", says=("ends in .npz",))
    frozen = tmp_path / "frozen"
    succeeds("compile", models / "small.onnx", "--board", "qemu-m4", "--calib", models / "x.npz", "--out", frozen)
    refused(frozen, 2, "weights", "status", frozen, says=("nothing learns", "--train last"))
    refused(frozen, 2, "train", frozen, "--data", models / "x.npz", says=("nothing learns",))


def test_train_on_the_command_line(mine: Path, models: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")
    common = ["train", mine, "--data", models / "x.npz", "--batch", 4, "--json"]
    done = succeeds(*common, "--batches", 6, "--save").json
    assert (done["first_step"], done["last_step"], len(done["losses"])) == (0, 6, 6)
    assert done["saved"] and done["learned"][0]["changed"] > 0 and done["journal"]["saved_step"] == 6
    assert Path(done["host"]).name == "host.trained.onnx" and Path(done["host"]).exists()
    again = succeeds(*common, "--batches", 2, "--resume", "--save").json
    assert (again["first_step"], again["last_step"]) == (6, 8)
    x = models / "x.npy"
    succeeds("run", mine, "--input", x, "--output", tmp_path / "plain.npy")
    succeeds("run", mine, "--trained", "--input", x, "--output", tmp_path / "trained.npy")
    assert not np.array_equal(np.load(tmp_path / "plain.npy"), np.load(tmp_path / "trained.npy"))

    kept = (mine / "host.trained.onnx").read_bytes()
    hopeless = [*common, "--batches", 3, "--lr", 1e6, "--resume"]
    text = refused(mine / "src", 1, *hopeless, says=("diverged", "lower --lr"))
    refused(mine / "src", 1, *hopeless, says=("diverged",))  # it does not go on with what has diverged
    with Store(mine) as store:
        assert [(run.id, run.status) for run in store.runs()] == [
            (4, "failed"),
            (3, "failed"),
            (2, "done"),
            (1, "done"),
        ]
    assert "twin" in text and (mine / "host.trained.onnx").read_bytes() == kept
    assert succeeds("weights", "status", mine, "--json").json["step"] == 8
    labels = tmp_path / "labels.npz"
    np.savez(labels, x=np.load(x), y=np.full(24, 5))
    refused(mine, 1, "train", mine, "--data", labels, says=("labels run from 5 to 5", "5 classes"))
    refused(mine, 2, *common, "--max-norm", 0, says=("--max-norm", "positive"))
    (mine / "host.trained.onnx").unlink()
    refused(mine, 1, *common, "--resume", says=("host.trained.onnx", "tlc train"))
    refused(
        mine, 1, "run", mine, "--trained", "--input", x, "--output", tmp_path / "y.npy", says=("host.trained.onnx",)
    )


def test_saving_while_training_changes_nothing(library: TwinLibrary) -> None:
    """Power cuts in the saves of a training run, which goes on from its journal: the trajectory is the undisturbed one."""
    is_undisturbed(library)


def test_velocities_and_residuals_outlive_power_cuts(remembering: TwinLibrary) -> None:
    """So that with momentum and error feedback, too, the trajectory is the undisturbed one."""
    is_undisturbed(remembering, momentum=0.9)


def is_undisturbed(library: TwinLibrary, **options: Any) -> None:
    """24 steps, saved each, in which the power fails now and then, end where 24 steps do."""
    calm = library.create(1)
    shaken = library.create(1, library.blank_flash())

    async def undisturbed(device: Session) -> bytes:
        for step in range(1, 25):
            await learn(device, step, **options)
        return await device.get_params()

    async def disturbed(device: Session) -> bytes:
        rng = np.random.default_rng(4)
        step, boot = 0, 1
        while step < 24:
            try:
                while step < 24:
                    if rng.random() < 0.3:
                        shaken.cut_power(int(rng.integers(0, 400)))
                    asked = asyncio.create_task(learn(device, step + 1, save=True, **options))
                    while not asked.done() and not shaken.dead:
                        await asyncio.sleep(0)
                    if shaken.dead:
                        boot += 1
                        shaken.reboot(boot)
                    await asked
                    step += 1
            except DeviceReset:
                step = (await device.greet()).last_step
        assert boot > 2
        return await device.get_params()

    assert with_session(calm, undisturbed) == with_session(shaken, disturbed)


def test_the_bundle_tells_of_the_first_values(mine: Path) -> None:
    """They are what the device begins with, and a damaged file is refused."""
    with kept_twin(mine) as twin:
        assert raw(twin) == weights.initial_params(mine)
    first = bytearray((mine / "learned.bin").read_bytes())
    first[0] ^= 1
    (mine / "learned.bin").write_bytes(first)
    refused(mine, 1, "weights", "status", mine, says=("learned.bin", "another compilation"))


def test_json_is_all_that_stands_on_stdout(mine: Path) -> None:
    assert json.loads(succeeds("weights", "status", mine, "--json").out)["device"] == "twin"
