# SPDX-License-Identifier: Apache-2.0
"""``tlc serve``: the daemon. Greets devices, answers their samples, and trains with them where it is given data."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc.errors import BundleError, ConfigError, DataError, DeviceReset, LinkError, TlcError
from tlc.extras import require
from tlc.learning import Schedule
from tlc_host.algorithms import ALGORITHMS
from tlc_host.algorithms.base import Event, judges
from tlc_host.algorithms.local import Local
from tlc_host.cohort import Cohort, Device, DeviceSteps, LinkDevice
from tlc_host.config import DEFAULT, Plan, check_used, plan
from tlc_host.devices import open_device
from tlc_host.exits import bound_of, head_of
from tlc_host.loop import Loop
from tlc_host.model.optimizers import Settings as HostSettings
from tlc_host.model.schedules import Schedule as HostSchedule
from tlc_host.recorder import recorded
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.session import Session, SmashedReply
from tlc_host.shards import Deal, Shard, deal, load_shard
from tlc_host.store import Store

__all__ = ["Training", "assemble", "load_shard", "prepare_shards", "serve"]

log = logging.getLogger("tlc.serve")

RETRY_S = 1.0
WATCH_S = 0.25
EXITS_TOLD = 100
"""Samples of its own after which it is told how many a device answered itself."""


@dataclass(frozen=True)
class Training:
    """What to train on, and how."""

    data: Path
    plan: Plan = field(default_factory=lambda: plan({}))
    deal: Deal = "turns"
    """Who gets which samples."""
    alpha: float = 0.3
    """Of ``dirichlet``."""


async def serve(
    directory: Path,
    devices: Sequence[str],
    *,
    training: Training | None = None,
    say: Callable[[str], None] = log.info,
    on_event: Callable[[Event], None] | None = None,
    once: bool = False,
    exit: float | None = None,
    cut: str | None = None,
) -> None:
    """Serves devices until it is cancelled, or, with ``once``, until the training is done.

    A device's own samples are answered with the network's outputs. With ``training`` the devices first train together
    by its algorithm, each on its part of the data; ``on_event`` is called after every batch and every round. Rounds and
    checkpoints are kept in the project: an interrupted training goes on when the same is asked again. A device that resets is
    greeted again, and gets back what it had learned at the end of the last batch that it finished. Of several cuts the
    devices' parts end at ``cut``; None: at the bundle's own. ``NAME@DIR`` is a device of another project, which has the same
    model for another board: it learns together with the others.

    With ``exit`` devices answer those of their own samples themselves of which their head at the cut is surer than that, and it is
    told how many.

    Raises:
        UsageError: the project has no such cut.
        DataError: the training data does not fit.
        ConfigError: nothing learns in this project, or a setting of the training breaks a rule.
        BundleError: a device holds another bundle, or the project of one differs in more than its board.
        LinkError: a device cannot be opened at the start.
        OutputError: the disk is full; what was kept stays.
    """
    bundle = bundles.load(directory, cut)
    if exit is not None:
        head_of(bundle, "--exit")
        bound_of(exit)
    model = ServerModel(directory, cut=cut)
    places = [place_of(device, directory, bundle, cut) for device in devices]
    shards = prepare_shards(training, model, len(devices)) if training else []

    async def answer(reply: SmashedReply) -> NDArray[np.float32]:
        smashed = reply.outputs[0].reshape(1, *bundle.outputs[0].shape[1:])
        outputs = await server.infer(smashed)
        return outputs[0].astype(np.float32).ravel()

    async with AsyncExitStack() as stack:
        # Before a device is opened: a second daemon is refused here.
        store = stack.enter_context(Store(directory, write=True, say=say)) if training else None
        server = await stack.enter_async_context(ServerWorker(model))
        sessions = []
        for device, (place, own) in zip(devices, places, strict=True):
            opened = open_device(place, device.partition("@")[0], cut=cut, name=device, on_sample=answer)
            session = await stack.enter_async_context(opened)
            say(f"{device}: {session.hello.board.decode(errors='replace')}, bundle {own.hash[:16]}")
            sessions.append(session)
        if training and store:
            members = link_devices(sessions, directory, training.plan, bundle, places=places)
            loop = assemble(training.plan, server, members, shards)
            names = [member.name for member in loop.cohort.members]
            boards = {n: s.hello.board.decode(errors="replace") for n, s in zip(names, sessions, strict=True)}
            async for event in recorded(loop, store, identity(training, devices, bundle), boards):
                if on_event:
                    on_event(event)
            say(f"training is done; tlc runs show {directory} tells of it")
        if once:
            return
        async with asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(_watch(session, say, exit))


def place_of(device: str, directory: Path, bundle: Bundle, cut: str | None) -> tuple[Path, Bundle]:
    """The project of a device, and its bundle; ``NAME@DIR`` has another than ``directory``.

    Raises:
        BundleError: that one is damaged, or differs in more than its board: its arithmetic of gradients, what it promises.
    """
    _, at, other = device.partition("@")
    if not at:
        return directory, bundle
    found = bundles.load(Path(other), cut)
    for name in ("host_sha256", "inputs", "outputs", "learned", "tail", "aux"):
        if getattr(found, name) != getattr(bundle, name):
            raise BundleError(
                f"its {name} are not those of {directory}",
                where=device,
                remedy="compile the same model in the same way, for another --board",
            )
    rules = [
        learning and replace(learning, arithmetic="float", scales="dynamic")
        for learning in (found.learning, bundle.learning)
    ]
    if rules[0] != rules[1]:
        raise BundleError(
            f"it learns in another way than {directory}",
            where=device,
            remedy="compile both with the same --train-batch, --loss, --momentum and --rounding",
        )
    return Path(other), found


def identity(training: Training, devices: Sequence[str], bundle: Bundle) -> dict[str, Any]:
    """What must be the same, beside the bundle's hash, for an interrupted run to go on."""
    return {
        **({"cut": bundle.cut} if bundle.cuts else {}),
        "data": str(training.data.resolve()),
        "deal": training.deal,
        "alpha": training.alpha,
        "devices": list(devices),
        **training.plan.settings.model_dump(),
    }


def prepare_shards(training: Training, server: ServerModel, count: int) -> list[Shard]:
    """Every device's share; all that can be wrong is found before a device is opened.

    Raises:
        ConfigError: the algorithm cannot work with this project.
        DataError: the file does not fit.
    """
    if server.bundle.split:
        require("tensorflow")
    algorithm = training.plan.algorithm
    algorithm.require(server.bundle, str(server.directory))
    learning = server.bundle.learning
    if learning is not None and learning.interleaved and training.plan.settings.batch != 1:
        raise ConfigError(
            f"the device takes a step after every sample (--train-batch 1), but a batch is {training.plan.settings.batch}",
            where="--batch",
            remedy="give --batch 1, or compile with --train-batch many",
        )
    if learning is not None and not learning.momentum and training.plan.settings.device_momentum:
        raise ConfigError("the device keeps no velocities", where="device_momentum", remedy="compile with --momentum")
    whole = load_shard(training.data, server.bundle)
    server.check_labels(whole.labels, str(training.data))
    if len(whole) < count:
        raise DataError(
            f"holds {len(whole)} samples for {count} devices", where=str(training.data), remedy="give more samples"
        )
    return deal(whole, count, training.deal, alpha=training.alpha, seed=training.plan.settings.seed)


def link_devices(
    sessions: Sequence[Session],
    directory: Path,
    plan: Plan,
    bundle: Bundle | None = None,
    *,
    max_norm: float = 0.0,
    places: Sequence[tuple[Path, Bundle]] = (),
) -> list[LinkDevice]:
    """Sessions as an algorithm's devices; those of one name are numbered.

    Args:
        bundle: None: the project's own.
        places: of each session its project and bundle; none: ``directory`` and ``bundle``.
    """
    told = device_steps(plan)
    found = [
        LinkDevice(session, own, place, gradient=plan.settings.gradient, max_norm=max_norm, told=told)
        for session, (place, own) in zip(
            sessions, places or [(directory, bundle or bundles.load(directory))] * len(sessions), strict=True
        )
    ]
    names = [device.name for device in found]
    for number, device in enumerate(found):
        if names.count(device.name) > 1:
            device.name = f"{names[number]} #{number + 1}"
    return found


def device_steps(plan: Plan) -> DeviceSteps:
    """What the settings say of the devices' steps."""
    settings = plan.settings
    steps = settings.rounds * settings.batches
    every = -(-steps // 3) if settings.device_schedule == "step" else max(1, steps - settings.device_warm_up)
    factor = 0.5 if settings.device_schedule == "step" else 0.0
    schedule = Schedule(settings.device_schedule, settings.device_warm_up, every, factor)
    return DeviceSteps(settings.device_momentum, settings.device_decay, settings.device_clip, schedule)


def host_settings(plan: Plan, devices: int) -> HostSettings:
    """What the settings say of how the host segment learns, with so many devices. The rate is told at every step."""
    told = plan.settings
    steps = plan.algorithm.host_steps(told, devices)
    schedule = HostSchedule()
    if told.host_schedule != "constant" or told.host_warm_up:
        third, rest = max(1, -(-steps // 3)), max(1, steps - told.host_warm_up)
        schedule = HostSchedule(told.host_schedule, told.host_warm_up, every=third, factor=0.5, total=rest)
    return HostSettings(
        optimizer=told.host_optimizer,
        momentum=told.host_momentum,
        beta1=told.host_beta1,
        beta2=told.host_beta2,
        epsilon=told.host_epsilon,
        weight_decay=told.host_decay,
        clip_norm=told.host_clip,
        schedule=schedule,
        batch_norm=told.host_batch_norm,
        # Of dropout, which drops nothing else.
        seed=told.seed if told.host_batch_norm == "training" else 0,
    )


def fitting(plan: Plan, bundle: Bundle) -> Plan:
    """The plan; but where the whole network is on the device, and it computes its loss itself, local learning in the
    place of the default."""
    if bundle.split or not judges(bundle) or plan.algorithm is not ALGORITHMS[DEFAULT]:
        return plan
    settings = Local.Settings.model_validate(plan.settings.model_dump(include=plan.settings.model_fields_set))
    return check_used(Plan(Local, settings))


def assemble(plan: Plan, server: ServerWorker, devices: Sequence[Device], shards: Sequence[Shard]) -> Loop:
    """An algorithm with its cohort, ready to run."""
    settings = plan.settings
    server.model.configure(host_settings(plan, len(devices)))
    cohort = Cohort(deadline_s=settings.deadline_s, quorum=settings.quorum, seed=settings.seed)
    for device, shard in zip(devices, shards, strict=True):
        cohort.join(device, shard)
    return Loop(plan.algorithm(settings, cohort, server))


async def _watch(session: Session, say: Callable[[str], None], exit: float | None = None) -> None:
    """Keeps a session alive: greets a device that reset, and gives it back what it had learned. Tells how many of its own
    samples it answers itself."""
    learned = await session.get_params() if session.hello.param_bytes else b""
    if exit is not None:
        await session.set_exit(exit)
    stats = await session.stats()
    step, told = stats.last_step, stats
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            stats = await session.stats()
            if exit is not None and stats.sampled >= told.sampled + EXITS_TOLD:
                own, of = stats.exited - told.exited, stats.sampled - told.sampled
                say(f"{session.name}: of its last {of:,} samples it answered {own:,} itself ({own / of:.1%})")
                told = stats
        except DeviceReset as reset:
            say(str(reset))
            await session.greet()
            told = await session.stats()
            if exit is not None:
                await session.set_exit(exit)
            if learned:
                await session.set_params(learned, step=step)
            say(f"{session.name}: back" + (", its learned tensors restored" if learned else ""))
        except (LinkError, TlcError) as error:
            say(f"{error}; trying again")
            await asyncio.sleep(RETRY_S)
