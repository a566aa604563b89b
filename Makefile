# SPDX-License-Identifier: Apache-2.0
#
#   make setup   everything that the rest needs: system packages (as root), .venv, PlatformIO
#   make demo    trains, compiles, boots, infers and learns across an emulated UART
#   make test    pytest, the C unit tests (plain and under ASan + UBSan), firmware in emulators
#   make fuzz    ten million executions of the C parsers under libFuzzer, ASan and UBSan
#   make explore the link and its messages, breadth first, with loss and resets at any point
#   make soak    20 minutes of training by 200 twins, with resets of devices and of the daemon
#   make lint    ruff, mypy, clang-format, cppcheck
#   make clean   removes what was built; `make distclean` the environment too
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PY := $(BIN)/python
JOBS ?= $(shell nproc)
# Whole files side by side: their fixtures are built once.
PYTEST_ARGS ?= -n $(JOBS) --dist loadfile

export PLATFORMIO_CORE_DIR := $(VENV)/platformio
export PLATFORMIO_SETTING_ENABLE_TELEMETRY := no
export PLATFORMIO_DISABLE_UPGRADE_CHECK := true
export TF_CPP_MIN_LOG_LEVEL ?= 2
export CUDA_VISIBLE_DEVICES ?=

# Tests build the same runtime for this machine many times over. Not for boards: ccache knows nothing of the call graphs
# (-fcallgraph-info) that the stack's bound is proven from.
export PATH := $(VENV)/ccache:$(PATH)
export CCACHE_BASEDIR := $(or $(TMPDIR),/tmp)
export CCACHE_NOHASHDIR := 1
export CCACHE_DEPEND := 1
export CCACHE_MAXSIZE ?= 1G

# program=package
SYSTEM := arm-none-eabi-gcc=gcc-arm-none-eabi riscv64-unknown-elf-gcc=gcc-riscv64-unknown-elf \
	xtensa-lx106-elf-gcc=gcc-xtensa-lx106 qemu-system-arm=qemu-system-arm qemu-system-riscv32=qemu-system-misc \
	ccache=ccache cmake=cmake ninja=ninja-build gcc=gcc clang=clang clang-format=clang-format cppcheck=cppcheck tshark=tshark
# packages without a program of their own, known by a file
LIBRARIES := /usr/lib/arm-none-eabi/newlib=libnewlib-arm-none-eabi \
	/usr/lib/picolibc/riscv64-unknown-elf=picolibc-riscv64-unknown-elf \
	/usr/lib/xtensa-lx106-elf/picolibc.specs=picolibc-xtensa-lx106-elf \
	/usr/include/stdio.h=libc6-dev

C_SOURCES = $(shell git ls-files 'firmware/*.c' 'firmware/*.h' 'firmware/*.cpp' 'firmware/*.hpp' \
	'tests/*.c' 'tests/*.h' 'tests/*.cpp')

.PHONY: help setup system demo test test-c test-python fuzz explore soak lint format clean distclean
help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.ready

system:
	@missing=; \
	for pair in $(SYSTEM); do command -v "$${pair%%=*}" >/dev/null || missing+=" $${pair#*=}"; done; \
	for pair in $(LIBRARIES); do [ -e "$${pair%%=*}" ] || missing+=" $${pair#*=}"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "make: missing system packages; as root: apt-get install$$missing" >&2; exit 1; \
	fi; \
	echo "== apt-get install$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq >/dev/null || true; \
	apt-get install -y -qq --no-install-recommends $$missing >/dev/null

# Runs again when what is wanted changes. The package itself is editable.
$(VENV)/.ready: pyproject.toml | system
	@echo "== .venv"
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check --upgrade pip
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[train,host,dev]'
	@$(PY) -m tlc.toolchain >/dev/null
	@mkdir -p $(VENV)/ccache && for name in gcc g++ cc; do ln -sf "$$(command -v ccache)" $(VENV)/ccache/$$name; done
	@touch $@

demo: setup
	@$(PY) examples/digits/demo.py

test: test-c test-python

test-c: setup
	@echo "== C unit tests"
	@cmake -S . -B build/c -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
	@cmake --build build/c -j $(JOBS)
	@ctest --test-dir build/c --output-on-failure -j $(JOBS)
	@echo "== C unit tests, ASan + UBSan"
	@cmake -S . -B build/c-sanitized -G Ninja -DCMAKE_BUILD_TYPE=Debug -DTLC_SANITIZE=ON >/dev/null
	@cmake --build build/c-sanitized -j $(JOBS)
	@ctest --test-dir build/c-sanitized --output-on-failure -j $(JOBS)

test-python: setup
	@echo "== pytest"
	@$(PY) -m tlc.toolchain >/dev/null
	@$(PY) -m pytest $(PYTEST_ARGS)

fuzz: setup
	@$(PY) tests/fuzz/fuzz.py

explore: setup
	@$(PY) tests/explore/explore.py

soak: setup
	@$(PY) tests/host/link_soak.py

lint: setup
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "make: 'make format' puts these in shape:"; $(BIN)/ruff format --check . ; exit 1; }
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== clang-format"
	@clang-format --dry-run -Werror $(C_SOURCES)
	@echo "== cppcheck"
	@cppcheck --quiet --error-exitcode=1 --std=c99 --language=c --inline-suppr -j $(JOBS) \
		--enable=warning,performance,portability --suppress=missingIncludeSystem \
		--suppress=normalCheckLevelMaxBranches --suppress=shiftTooManyBitsSigned \
		'--suppress=comparePointers:firmware/ports/baremetal/*' -I firmware/include firmware/src firmware/ports/posix firmware/ports/baremetal

format: setup
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@clang-format -i $(C_SOURCES)

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	@rm -rf .venv
