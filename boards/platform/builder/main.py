# SPDX-License-Identifier: Apache-2.0
"""Builds a project for an emulated board or for this machine; ``upload`` boots it, ``stop`` ends it.

``tlc_emulator.py`` and ``tlc_emulator_renode.py`` are put beside this file when the platform is installed
(``tlc.toolchain.prepare_platformio``).
"""

import os
import shutil
import sys

from SCons.Script import AlwaysBuild, Default, DefaultEnvironment

env = DefaultEnvironment()
board = env.BoardConfig()
manifest = board.manifest
settings = manifest["tlc"]
toolchain = settings["toolchain"]
prefix = toolchain["prefix"]

sys.path.insert(0, os.path.join(env.PioPlatform().get_dir(), "builder"))
import tlc_emulator  # noqa: E402
import tlc_emulator_renode  # noqa: E402, F401  (it is looked for later, when the path is another)

APT_PACKAGES = {
    "arm-none-eabi-": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "riscv64-unknown-elf-": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    "xtensa-lx106-elf-": "gcc-xtensa-lx106 picolibc-xtensa-lx106-elf",
    "": "gcc",
}


def fail(message):
    sys.stderr.write(f"Error: {message}\n")
    env.Exit(1)


if shutil.which(prefix + "gcc", path=str(env["ENV"]["PATH"])) is None:
    fail(f"{prefix}gcc is not installed; apt-get install {APT_PACKAGES[prefix]}")

env.Replace(
    AR=f"{prefix}gcc-ar",
    AS=f"{prefix}gcc",
    CC=f"{prefix}gcc",
    CXX=f"{prefix}g++",
    LINK=f"{prefix}gcc",
    OBJCOPY=f"{prefix}objcopy",
    RANLIB=f"{prefix}gcc-ranlib",
    SIZETOOL=f"{prefix}size",
    ARFLAGS=["rc"],
    PROGNAME="firmware",
    PROGSUFFIX=".elf",
    SIZEPROGREGEXP=r"^(?:\.text|\.data|\.ARM\.exidx)\s+(\d+).*",
    SIZEDATAREGEXP=r"^(?:\.data|\.bss|\.stack)\s+(\d+).*",
    SIZECHECKCMD="$SIZETOOL -A -d $SOURCES",
    SIZEPRINTCMD="$SIZETOOL -B -d $SOURCES",
)

env.Append(
    CFLAGS=["-std=c99"],
    # .ci files beside the objects: the frames and calls from which `tlc size` proves the stack's bound.
    CCFLAGS=[*toolchain["flags"], "-g", "-Wall", "-Wextra", *(["-fcallgraph-info=su"] if prefix else [])],
    ASFLAGS=[*toolchain["flags"], "-x", "assembler-with-cpp"],
    LINKFLAGS=[
        *toolchain["flags"],
        *toolchain["link_flags"],
        "-Wl,--gc-sections",
        "-Wl,-Map,${BUILD_DIR}/firmware.map",
    ],
    CPPDEFINES=[("F_CPU", "$BOARD_F_CPU")],
)
if "ldscript" in manifest["build"]:
    script = os.path.join(env.subst("$PROJECT_DIR"), "lib", "tlc", "ports", "baremetal", manifest["build"]["ldscript"])
    if not os.path.isfile(script):
        fail(f"there is no linker script {script}; generate the project again")
    env.Replace(LDSCRIPT_PATH=script)
    env.Append(
        LINKFLAGS=["-nostartfiles", "-Wl,--build-id=sha1"]
        + [f"-Wl,--defsym={name}={value:#x}" for name, value in sorted(settings["symbols"].items())]
    )

program = env.BuildProgram()
AlwaysBuild(env.Alias("nobuild", program))
Default(env.Alias("buildprog", program, program), program)

size = env.AddPlatformTarget(
    "size",
    program,
    env.VerboseAction("$SIZEPRINTCMD", "Calculating size $SOURCE"),
    "Program Size",
    "Calculate program size",
)

state = os.path.join(env.subst("$PROJECT_WORKSPACE_DIR"), "tlc-emulator.json")


def upload(target, source, env):
    """Boots the image in the background; what ran for this project before ends first."""
    image = str(source[0])
    try:
        port = tlc_emulator.parse_port(env.subst("$UPLOAD_PORT"))
        tlc_emulator.stop_state(state)
        emulator = tlc_emulator.boot(
            settings["emulator"], image, port=port, detach=True, log=os.path.splitext(state)[0] + ".log"
        )
        tlc_emulator.write_state(state, emulator, os.path.abspath(image))
    except (tlc_emulator.EmulatorFailed, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    uart = emulator.address.replace("tcp://", "socket://").removeprefix("serial://")
    print(f"running: UART on {uart}, process {emulator.pid}; end it with: pio run -t stop")
    emulator.release()
    return 0


def stop(target, source, env):
    """Ends what ``upload`` has booted."""
    print("stopped" if tlc_emulator.stop_state(state) else "nothing runs for this project")
    return 0


AlwaysBuild(env.Alias("upload", program, env.VerboseAction(upload, "Booting $SOURCE")))
env.AddPlatformTarget("stop", None, env.VerboseAction(stop, "Ending the emulator"), "Stop", "End the running emulator")
