# SPDX-License-Identifier: Apache-2.0
"""``pip install .``: what is in the wheel, and that it works where the sources are not."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("train", "host", "dev")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by this environment's hatchling: an isolated build would ask the network for it."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(target)], check=True, capture_output=True, timeout=120)
    (built,) = target.glob("tlc-*-py3-none-any.whl")
    return built


def test_carries_firmware_boards_and_templates(wheel: Path) -> None:
    """Every file that is tracked, and none besides but the metadata."""
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for source, target in (
        ("firmware", "tlc/_data/firmware"),
        ("boards", "tlc/_data/boards"),
        ("compiler/tlc", "tlc"),
        ("host/tlc_host", "tlc_host"),
    ):
        listed = subprocess.run(["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True)
        found = {target + name.removeprefix(source) for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
        assert found
        expected |= found
    assert expected <= names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith("tests/")]
    kinds = {Path(name).suffix for name in names - expected if ".dist-info/" not in name}
    assert kinds <= {
        ".py",
        ".c",
        ".h",
        ".hpp",
        ".cpp",
        ".jinja",
        ".toml",
        ".md",
    }  # not yet tracked: no more than sources


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
    requirements = [
        line.removeprefix("Requires-Dist: ") for line in text.splitlines() if line.startswith("Requires-Dist")
    ]
    base = {Requirement(line).name for line in requirements if "extra ==" not in line}
    assert "numpy" in base and not base & {"tensorflow", "cobs", "pyserial", "pytest", "mlxtend"}
    assert {
        line.removeprefix("Provides-Extra: ") for line in text.splitlines() if line.startswith("Provides-Extra")
    } == set(EXTRAS)
    assert "License-Expression: Apache-2.0" in text


# ---- installed ----


def closure(requirements: list[str], extra: str = "") -> set[str]:
    """The distributions that pip would install for some requirements, by this environment's metadata."""
    found: set[str] = set()
    left = [(Requirement(text), extra) for text in requirements]
    while left:
        requirement, wanted = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
            continue
        name = requirement.name.lower().replace("_", "-")
        if name not in found:
            found.add(name)
            inner = metadata.requires(name) or []
            left += [(Requirement(text), e) for text in inner for e in ("", *requirement.extras)]
    return found


class Installation:
    """An empty virtual environment, with the wheel installed by pip.

    To spare minutes of downloads its dependencies are links to this environment's copies: of exactly the packages that pip
    would install for what the wheel's metadata asks for, so what it does not ask for cannot be imported. This repository is
    not on the path: a ``.pth`` file of an editable install is not followed through a link.
    """

    def __init__(self, place: Path, wheel: Path) -> None:
        self.place = place
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True, timeout=60)
        self.python = place / "venv" / "bin" / "python"
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--no-deps", "--no-index"]
        subprocess.run([*command, str(wheel)], check=True, capture_output=True, timeout=120)
        (self.packages,) = (place / "venv" / "lib").glob("python*/site-packages")
        asked = json.loads(
            self.run_python("import importlib.metadata as m, json; print(json.dumps(m.requires('tlc')))")
        )
        self.asked = asked
        self.add("")

    def add(self, extra: str) -> None:
        """The dependencies of the base, or of an extra."""
        home = Path(sysconfig.get_paths()["purelib"])
        for name in closure(self.asked, extra):
            for file in metadata.distribution(name).files or []:
                top = file.parts[0]
                if top not in ("..", "__pycache__") and (home / top).exists() and not (self.packages / top).exists():
                    (self.packages / top).symlink_to(home / top)

    def environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "PLATFORMIO", "TLC", "XDG"))
        }
        private = {"HOME": str(self.place / "home"), "PATH": f"{self.python.parent}{os.pathsep}{kept['PATH']}"}
        return {**kept, **private, "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}

    def run(self, *command: object, code: int = 0, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Runs a program in another folder than any of ours."""
        elsewhere = self.place / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        (self.place / "home").mkdir(exist_ok=True)
        words = [str(word) for word in command]
        done = subprocess.run(
            words, cwd=elsewhere, env=self.environment(), capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == code, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done

    def run_python(self, code: str) -> str:
        return self.run(self.python, "-c", code).stdout

    def tlc(self, *arguments: object, code: int = 0) -> Any:
        """The installed program's answer."""
        return self.run(self.python.with_name("tlc"), *arguments, code=code)


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.slow
def test_nothing_comes_from_the_sources(installation: Installation) -> None:
    paths = installation.run_python(
        "import tlc, tlc_host, sys; print(tlc.__file__, tlc_host.__file__, *sys.path, sep='\\n')"
    )
    assert str(ROOT) not in paths.replace(sys.base_prefix, "")
    assert paths.splitlines()[0].startswith(str(installation.packages))
    for module in ("tensorflow", "cobs", "pytest", "mlxtend", "tflite_micro"):
        assert installation.run_python(f"import importlib.util as u; print(u.find_spec('{module}'))") == "None\n"


@pytest.mark.slow
@pytest.mark.hil
def test_compiles_builds_and_runs_elsewhere(installation: Installation, models: Path) -> None:
    """compile, ``pio run``, then run on the twin and in the emulator; the base installation, then with [host]."""
    work = installation.place / "elsewhere"
    work.mkdir(exist_ok=True)
    for name in ("small.onnx", "x.npz", "x.npy"):
        shutil.copy(models / name, work)
    done = installation.tlc("compile", "small.onnx", "--board", "qemu-m4", "--calib", "x.npz", "--out", "p", "--json")
    answer = json.loads(done.stdout)
    assert answer["board"] == "qemu-m4" and answer["warnings"] == [] and done.stderr == ""
    assert json.loads(installation.tlc("plan", "small.onnx", "--board", "esp32", "--json").stdout)[-1]["cut"] == "none"

    built = installation.run(installation.python, "-m", "platformio", "run", "-d", "p")
    assert "SUCCESS" in built.stdout
    assert (work / "p" / ".pio" / "build" / "qemu-m4" / "firmware.elf").exists()
    assert json.loads(installation.tlc("size", "p", "--json").stdout)["fits"] is True

    installation.tlc("run", "p", "--device", "twin", "--input", "x.npz", "--output", "twin.npy")
    refused = installation.tlc("run", "p", "--device", "emulator", "--input", "x.npy", "--output", "no.npy", code=1)
    assert refused.stderr == 'tlc: cobs is not installed; pip install "tlc[host]"\n'

    installation.add("host")
    ran = installation.tlc("run", "p", "--device", "emulator", "--input", "x.npy", "--output", "emulator.npy", "--json")
    assert json.loads(ran.stdout)["samples"] == 24
    assert np.array_equal(np.load(work / "twin.npy"), np.load(work / "emulator.npy"))
    refused = installation.tlc("serve", "p", "--train", "x.npz", "--once", code=1)
    assert refused.stderr == 'tlc: tensorflow is not installed; pip install "tlc[train]"\n'
