# SPDX-License-Identifier: Apache-2.0
"""The CMake package as strangers use it, installed or added as a subdirectory, and the checked-in vectors."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONSUMER = """
cmake_minimum_required(VERSION 3.20)
project(consumer LANGUAGES C)
{runtime}
tlc_add_model(my_model project)
add_executable(consumer main.c)
target_link_libraries(consumer PRIVATE my_model)
"""

MODEL_H = """
#include <stdint.h>
void my_model_run(const int8_t *x, int8_t *y);
"""

MODEL_C = """
#include "tlc_model.h"
#include "tlc/kernels.h"

static const int8_t weights[2] = {3, -3};
static const int32_t bias[1] = {20};
static const int32_t mult[1] = {1 << 30};
static const int8_t shift[1] = {1};

void my_model_run(const int8_t *x, int8_t *y) {
    const tlc_dense_t p = {.samples = 1, .in = 2, .out = 1, .act_min = -128, .act_max = 127, .mult = mult,
                           .shift = shift};
    tlc_rows_t rows = tlc_rows_raw(weights, 2);
    tlc_dense_s8(&p, x, &rows, bias, y);
}
"""

MAIN_C = """
#include <stdio.h>
#include "tlc_model.h"

int main(void) {
    const int8_t x[2] = {10, 4};
    int8_t y[1];
    my_model_run(x, y);
    printf("%d\\n", y[0]);
    return 0;
}
"""

needs_cmake = pytest.mark.skipif(
    not shutil.which("cmake") or not shutil.which("cc"), reason="cmake or a C compiler is not installed"
)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_consumer(directory: Path, runtime: str, *options: str) -> str:
    model = directory / "project" / "lib" / "tlc_model"
    for path, text in {
        directory / "CMakeLists.txt": CONSUMER.format(runtime=runtime),
        directory / "main.c": MAIN_C,
        model / "include" / "tlc_model.h": MODEL_H,
        model / "src" / "tlc_model.c": MODEL_C,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run("cmake", "-S", directory, "-B", directory / "build", *options)
    run("cmake", "--build", directory / "build")
    return run(directory / "build" / "consumer")


@needs_cmake
def test_installed_package(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    run("cmake", "-S", ROOT, "-B", tmp_path / "build", "-DTLC_BUILD_TESTS=OFF", f"-DCMAKE_INSTALL_PREFIX={prefix}")
    run("cmake", "--build", tmp_path / "build")
    run("cmake", "--install", tmp_path / "build")
    assert (prefix / "include" / "tlc" / "model.h").exists()
    consumer = tmp_path / "consumer"
    assert build_consumer(consumer, "find_package(tlc 0.1 REQUIRED)", f"-DCMAKE_PREFIX_PATH={prefix}") == "38\n"


@needs_cmake
@pytest.mark.parametrize("folder", ["", "firmware"])
def test_subdirectory(tmp_path: Path, folder: str) -> None:
    """The whole repository, or the runtime alone as a generated project carries it."""
    assert build_consumer(tmp_path, f"add_subdirectory({(ROOT / folder).as_posix()} tlc)") == "38\n"


@needs_cmake
def test_no_model_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        CONSUMER.format(runtime=f"add_subdirectory({(ROOT / 'firmware').as_posix()} tlc)")
    )
    (tmp_path / "main.c").write_text(MAIN_C)
    done = subprocess.run(
        ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert f"tlc_add_model(my_model): '{tmp_path}/project' holds no lib/tlc_model/src/*.c" in message


def test_vectors_are_those_of_the_encoder() -> None:
    path = Path(__file__).parent / "make_huffman_vectors.py"
    spec = importlib.util.spec_from_file_location("make_huffman_vectors", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert module.HEADER.read_text() == module.render(), f"run python {path.name}"
