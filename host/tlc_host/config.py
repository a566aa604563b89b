# SPDX-License-Identifier: Apache-2.0
"""``tlc.toml``: how to train, with every key checked.

::

    [train]
    algorithm = "epsl"
    rounds = 10
    phi = 0.5
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from tlc.errors import ConfigError, nearest
from tlc_host.algorithms import ALGORITHMS, find
from tlc_host.algorithms.base import Algorithm, Settings

__all__ = ["CONFIG_FILE", "Key", "Plan", "check_used", "explain", "parse_value", "plan", "read"]

CONFIG_FILE = "tlc.toml"
DEFAULT = "vsl"

OF_OPTIMIZERS = {
    "host_momentum": ("momentum",),
    "host_beta1": ("adam", "adamw"),
    "host_beta2": ("adam", "adamw"),
    "host_epsilon": ("adam", "adamw"),
    "host_decay": ("adamw",),
}
"""Keys that only some optimizers of the host segment read."""


@dataclass(frozen=True)
class Plan:
    """An algorithm and its settings."""

    algorithm: type[Algorithm]
    settings: Settings


@dataclass(frozen=True)
class Key:
    """A key of ``[train]``."""

    name: str
    kind: str
    default: Any
    description: str
    algorithm: str
    """Whose it is; empty: everyone's."""


def read(path: Path) -> dict[str, Any]:
    """The table ``[train]`` of a file.

    Raises:
        ConfigError: it cannot be read, is no TOML, or has another table.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", where=str(path), remedy="give an existing file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no TOML: {error}", where=str(path), remedy="mend that line") from None
    for name, value in content.items():
        if name != "train" or not isinstance(value, dict):
            raise ConfigError(f"no table '{name}'", where=str(path), remedy="there is [train]")
    table: dict[str, Any] = content.get("train", {})
    return table


def plan(values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Plan:
    """Checked settings.

    Args:
        values: keys of ``[train]``; ``algorithm`` names the algorithm.
        places: where each key was given, for errors.

    Raises:
        ConfigError: an unknown algorithm or key (names the nearest), or a value that breaks a rule.
    """
    given, places = dict(values), places or {}
    algorithm = find(str(given.pop("algorithm", DEFAULT)), places.get("algorithm", "--algorithm"))
    known = algorithm.Settings.model_fields
    for key in given:
        if key not in known:
            owners = [name for name, other in ALGORITHMS.items() if key in other.Settings.model_fields]
            remedy = f"it belongs to {', '.join(owners)}" if owners else nearest(key, [*known, "algorithm"])
            raise ConfigError(
                f"algorithm '{algorithm.name}' has no key '{key}'", where=places.get(key, "[train]"), remedy=remedy
            )
    try:
        return check_used(Plan(algorithm, algorithm.Settings.model_validate(given)), places)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "[train]"
        limits = first.get("ctx", {})
        rule = first["msg"].removeprefix("Input should be ")
        if limits.get("gt") == 0 or "inf" in str(limits.get("lt", "")):
            rule = "positive"
        raise ConfigError(
            f"{key} must be {rule}, but is {first['input']}",
            where=places.get(key, "[train]"),
            remedy=known[key].description or "" if key in known else "",
        ) from None


def check_used(plan: Plan, places: Mapping[str, str] | None = None) -> Plan:
    """The same plan, where all that was set of the host segment's learning is read.

    Raises:
        ConfigError: its optimizer does not know the key, or the host segment does not learn.
    """
    optimizer = plan.settings.host_optimizer
    learns = plan.algorithm.host_steps(plan.settings, 1) > 0
    for key in sorted(plan.settings.model_fields_set):
        readers = OF_OPTIMIZERS.get(key, (optimizer,))
        where = (places or {}).get(key, key)
        if key.startswith("host_") and not learns:
            raise ConfigError(
                f"{key} has no effect: with algorithm '{plan.algorithm.name}' the host segment does not learn",
                where=where,
                remedy="leave it out, or take an algorithm of split learning",
            )
        if optimizer not in readers:
            raise ConfigError(
                f"{key} has no effect on host_optimizer '{optimizer}'",
                where=where,
                remedy=f"it belongs to {' and '.join(readers)}",
            )
    return plan


def parse_value(text: str) -> tuple[str, Any]:
    """``key=value`` of the command line; the value as in TOML, or else a string.

    Raises:
        ConfigError: there is no =.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}' is no KEY=VALUE", where="--set", remedy="for example: --set phi=0.5")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def explain(algorithm: str = "") -> Iterator[Key]:
    """Every key that can be set; of one algorithm, or of all.

    Raises:
        ConfigError: no such algorithm.
    """
    classes = [find(algorithm)] if algorithm else list(ALGORITHMS.values())
    yield Key(
        "algorithm", " | ".join(f'"{name}"' for name in ALGORITHMS), DEFAULT, "What the devices and the host do.", ""
    )
    for name in Settings.model_fields:
        yield _key(Settings, name, "")
    for one in classes:
        for name in one.Settings.model_fields:
            if name not in Settings.model_fields or _key(one.Settings, name, "") != _key(Settings, name, ""):
                yield _key(one.Settings, name, one.name)


def _key(settings: type[Settings], name: str, algorithm: str) -> Key:
    field = settings.model_fields[name]
    default = None if field.default is PydanticUndefined else field.default
    return Key(name, _kind(field.annotation, field.metadata), default, field.description or "", algorithm)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    if typing.get_origin(annotation) is Literal:
        return " | ".join(f'"{value}"' for value in typing.get_args(annotation))
    bounds = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    rules = [
        f"{sign} {getattr(rule, name)}"
        for rule in metadata
        for name, sign in bounds.items()
        if getattr(rule, name, None) not in (None, float("inf"))
    ]
    kinds = {"int": "whole number", "float": "number", "bool": "true or false"}
    kind = "file" if "Path" in str(annotation) else kinds.get(getattr(annotation, "__name__", ""), "text")
    return ", ".join([kind, *rules])
