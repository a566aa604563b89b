# SPDX-License-Identifier: Apache-2.0
"""PlatformIO: compiles the runtime and the one port that the project's ``platformio.ini`` names.

``custom_tlc_port`` is a folder of ``ports``; ``custom_tlc_sources`` are the files of it to take (all, where absent).
A project that names none brings its own (an Arduino project builds that port with its sources).

What runs once for a message or a frame (``SMALL``), not for each value or byte, is compiled for size, whatever the rest
is compiled for.
"""

import os
import sys

SMALL = (
    "*/src/ctx.c",
    "*/src/device/*.c",
    "*/src/journal/delta.c",
    "*/src/journal/journal.c",
    "*/src/link/link*.c",
    "*/src/link/messages.c",
)

Import("env")  # type: ignore[name-defined]  # noqa: F821

environment = env  # type: ignore[name-defined]  # noqa: F821
here = os.path.join(os.getcwd(), "ports")
if not os.path.isdir(here):
    here = os.getcwd()
ports = sorted(name for name in os.listdir(here) if os.path.isdir(os.path.join(here, name)))
port = environment.GetProjectOption("custom_tlc_port", "")
if port and port not in ports:
    sys.stderr.write(f"Error: platformio.ini: custom_tlc_port is '{port}'; choose one of {', '.join(ports)}\n")
    environment.Exit(1)
chosen = environment.GetProjectOption("custom_tlc_sources", "").split()
sources = ["-<*>", "+<src/>"]
if port:
    sources += [f"+<ports/{port}/{name}>" for name in chosen] or [f"+<ports/{port}/>"]
    environment.Append(CPPPATH=[os.path.join(here, port)])
environment.Replace(SRC_FILTER=sources)


def small(environment, node):  # type: ignore[no-untyped-def]
    """The object of a source file, compiled for size: the last -O counts."""
    return environment.Object(node, CCFLAGS=[*environment["CCFLAGS"], "-Os"])


for pattern in SMALL:
    environment.AddBuildMiddleware(small, pattern)
