# SPDX-License-Identifier: Apache-2.0
"""Board files: all of ours load, and a broken one is refused with file, line, rule and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tlc import boards, resources
from tlc.errors import BoardError

BOARDS = [
    "esp32",
    "esp32-c3",
    "esp32-s3",
    "esp32-s3-psram",
    "esp8266",
    "nano33ble",
    "native",
    "nucleo-f446re",
    "pico",
    "qemu-m0",
    "qemu-m3",
    "qemu-m33",
    "qemu-m4",
    "qemu-m55",
    "qemu-m7",
    "qemu-rv32",
    "qemu-stm32f4",
    "qemu-xtensa",
    "renode-nano33ble",
    "renode-rv32",
    "renode-stm32f4-discovery",
    "renode-stm32f746",
    "stm32f746-disco",
]


def broken(tmp_path: Path, old: str, new: str, base: str = "qemu-m4") -> tuple[Path, str, str]:
    """A copy of a board file with one change: its path, the line of the change, the message."""
    text = (resources.boards_dir() / f"{base}.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(BoardError) as caught:
        boards.load(str(path))
    assert caught.value.exit_code == 2
    return path, str(line), str(caught.value)


def test_names() -> None:
    assert set(BOARDS) <= set(boards.names())


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_loads(name: str) -> None:
    board = boards.load(name)
    assert board.id == name
    assert board.instructions("an-operator-without-a-row", 100, 10) > 0
    assert board.link.bytes_per_second(board.transports[0]) > 0
    assert board.emulated == (board.platformio.platform == boards.PLATFORM)
    if board.port == "arduino":
        assert board.link.peer_window * (board.link.fragment + 64) <= 4096  # what it buffers
        assert re.fullmatch(r"[a-z0-9]+@\d+\.\d+\.\d+", board.platformio.platform), "pinned"
        options = board.platformio.options
        assert options["monitor_speed"] == str(board.link.uart_baud) and options["monitor_filters"].endswith(
            "printable"
        )
        assert options.keys() & {"upload_speed", "upload_protocol"}
        assert "debug_tool" in options or name == "esp8266"  # for which PlatformIO has none
        assert ("wifi" in board.transports) == (board.platformio.platform.startswith("espressif"))
        if "esp32" in name:
            assert options["board_build.partitions"].startswith("default"), "two slots for updates over the air"


def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((resources.boards_dir() / "qemu-m4.toml").read_text().replace('id = "qemu-m4"', 'id = "mine"'))
    assert boards.load(str(path)).id == "mine"
    with pytest.raises(BoardError, match="there is no such board file"):
        boards.load(str(tmp_path / "other.toml"))


@pytest.mark.parametrize("name", ["qemu-m5", "", "..", "QEMU-M4", "a b"])
def test_unknown(name: str) -> None:
    with pytest.raises(BoardError, match="unknown board"):
        boards.load(name)


def test_unknown_names_the_nearest() -> None:
    with pytest.raises(BoardError, match=r"did you mean .*qemu-m4"):
        boards.load("qemu-m44")


def test_unknown_key(tmp_path: Path) -> None:
    path, line, message = broken(tmp_path, "clock_hz =", "clock =")
    assert "'cpu.clock_hz' is missing" in message or "unknown key 'cpu.clock'" in message
    path, line, message = broken(tmp_path, "stack_bytes = 4_096\n", "stack_bytes = 4_096\nstack_byte = 1\n")
    assert f"{path}:{int(line) + 1}: unknown key 'memory.stack_byte'" in message
    assert "did you mean stack_bytes" in message


def test_missing_key_names_its_table(tmp_path: Path) -> None:
    path, _, message = broken(tmp_path, "stack_bytes = 4_096\n", "")
    header = (path.read_text().splitlines().index("[memory]")) + 1
    assert message.startswith(f"{path}:{header}: the key 'memory.stack_bytes' is missing")


def test_wrong_value_names_the_allowed(tmp_path: Path) -> None:
    path, line, message = broken(tmp_path, 'port = "baremetal"', 'port = "freertos"')
    assert message.startswith(f"{path}:{line}: 'port' is 'freertos'")
    assert "allowed: 'baremetal', 'posix', 'arduino'" in message


def test_wrong_type(tmp_path: Path) -> None:
    path, line, message = broken(tmp_path, "uart_baud = 115_200", 'uart_baud = "fast"')
    assert message.startswith(f"{path}:{line}: 'link.uart_baud' is 'fast'")


def test_not_toml(tmp_path: Path) -> None:
    path, line, message = broken(tmp_path, 'port = "baremetal"', "port = baremetal")
    assert message.startswith(f"{path}:{line}: not valid TOML")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("static_ram_bytes = 257_784", "static_ram_bytes = 262_144", "must not exceed ram_bytes"),
        ("\ncode_flash_bytes = ", "\ncode_flash_bytes = 9_0", "must not exceed flash_bytes"),
        ("[cost.default]", "[cost.other]", "cost.default is missing"),
        ('linker_script = "cortex_m.ld"\n', "", "a bare-metal board needs linker_script"),
        ('[emulator]\nkind = "qemu"\nprogram', '[emulator]\nkind = "unicorn"\nprogram', "'qemu', 'renode', 'process'"),
    ],
)
def test_rules(tmp_path: Path, old: str, new: str, rule: str) -> None:
    assert rule in broken(tmp_path, old, new)[2]


def test_rules_of_an_arduino_board(tmp_path: Path) -> None:
    path, line, message = broken(tmp_path, "constants_in_ram = true", 'constants_in_ram = "yes"', "esp8266")
    assert message.startswith(f"{path}:{line}: 'memory.constants_in_ram' is 'yes'") and "boolean" in message
    path, line, message = broken(tmp_path, "constants_in_ram = true", "constant_in_ram = true", "esp8266")
    assert message.startswith(f"{path}:{line}: unknown key 'memory.constant_in_ram'; did you mean constants_in_ram")
    path, line, message = broken(tmp_path, 'features = ["mul"]', 'features = ["soft-float"]', "pico")
    assert message.startswith(f"{path}:{line}: ") and "allowed: 'dsp', 'fpu'" in message
    path, line, message = broken(tmp_path, 'debug_tool = "esp-builtin"', "debug_tool = true", "esp32-c3")
    assert f"{path}:{line}: 'platformio.options.debug_tool' is True" in message


def test_transport() -> None:
    board = boards.load("esp32")
    assert board.check_transport(None) == "uart"
    assert board.check_transport("wifi") == "wifi"
    with pytest.raises(BoardError, match="choose uart or wifi"):
        board.check_transport("tcp")


def test_no_emulator() -> None:
    with pytest.raises(BoardError, match=r"boards with one: .*qemu-m4"):
        boards.load("esp32").emulator_spec()


@pytest.mark.parametrize("name", [name for name in BOARDS if name.startswith("qemu-")])
def test_start_up_words_are_the_last_of_ram(name: str) -> None:
    board = boards.load(name)
    assert board.emulator is not None and board.memory.ram_origin is not None
    assert board.emulator.seed_address == board.memory.ram_origin + board.memory.ram_bytes - 8
    for source in board.port_sources:
        assert (resources.firmware_dir() / "ports" / board.port / source).is_file()


def test_project_files() -> None:
    files = boards.load("qemu-m4").project_files()
    assert set(files) == {"platformio.ini", "boards/qemu-m4.json"}
    assert "platform = tlc\n" in files["platformio.ini"]
    assert "-ffp-contract=off" in files["platformio.ini"]
    assert not any("/" in line.split("=")[-1] for line in files["platformio.ini"].splitlines())  # no path of a machine
