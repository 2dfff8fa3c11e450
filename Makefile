# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` need git, make, g++ and python3 >= 3.10 with venv; the rest comes from PyPI.

PYTHON ?= python3
ARGS ?=
# `make test` wants PyTorch, which the demo never installs. On a machine without an NVIDIA GPU, point
# PIP_EXTRA_INDEX_URL (or TORCH_ARGS, extra arguments of pip) at PyTorch's index of CPU wheels: they are much smaller.
TORCH_ARGS ?=

# The demo builds the GPU's kernels, which takes nvcc minutes, only where a GPU has its device file (desktop, Jetson, WSL);
# CRISPSTREAM_CUDA=AUTO: wherever nvcc works. The set-up for tests always does that.
CRISPSTREAM_CUDA ?= $(if $(wildcard /dev/nvidiactl /dev/nvhost-gpu /dev/nvgpu /dev/dxg),AUTO,OFF)

VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
# A change in one of these reinstalls the package; Python sources are used in place (editable install).
BUILD_INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(wildcard cmake/*.cmake) \
	$(shell find src/crispstream/kernels -name '*.cpp' -o -name '*.cu' -o -name '*.h')
# pip < 26.2 constrains isolated builds by the first, pip >= 25.3 by the second.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/pip install --quiet

MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.PHONY: demo test test-gpu test-gst apt-missing soak lint bench setup constraints clean

# Standard output belongs to the program: what the set-up has to say goes to standard error.
demo: $(VENV)/.demo
	@$(BIN)/crispstream demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

# Everything that needs an NVIDIA GPU, on a machine that has one (docs/gpu.md): tests, memory checks of the kernels,
# figures into benchmarks/results.
GPU_PYTHON ?= $(BIN)/python
test-gpu:
	@$(GPU_PYTHON) -m pytest -m gpu $(ARGS)
	@for tool in memcheck racecheck initcheck synccheck; do compute-sanitizer --tool $$tool --error-exitcode 1 \
		$(GPU_PYTHON) -m pytest -m gpu tests/kernels --timeout 0 -p no:cacheprovider || exit 1; done
	@$(GPU_PYTHON) benchmarks/gpu.py

# Everything that needs GStreamer, which comes from apt and has the system's Python: the element (gst/README.md).
APT_PACKAGES := gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	gstreamer1.0-plugins-ugly gstreamer1.0-python3-plugin-loader python3-gst-1.0 gir1.2-gst-plugins-base-1.0 \
	gir1.2-gst-rtsp-server-1.0
# For other tests, which skip without them: a browser for the preview page, an independent encoder and player, a compiler
# and an emulator for the kernels on other processors.
APT_TESTS := chromium chromium-driver ffmpeg g++-aarch64-linux-gnu qemu-user
test-gst: setup
	@missing=$$($(MAKE) apt-missing APT_TESTS=); [ -z "$$missing" ] || { \
		echo "crispstream: error: GStreamer is not complete, type: sudo apt install" $$missing >&2; exit 1; }
	@CRISPSTREAM_NEEDS_GST=1 $(BIN)/python -m pytest tests/gst $(ARGS)

# Which of both are not installed.
apt-missing:
	@for package in $(APT_PACKAGES) $(APT_TESTS); do \
		dpkg-query --show --showformat='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done

# Half an hour of a live stream with an outage every minute, or ARGS seconds.
soak: setup
	@$(BIN)/python tests/live/soak.py $(or $(ARGS),1800)

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict
	@find src -name '*.cpp' -o -name '*.cu' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

# Everything that can be measured on the CPU, ten minutes on a machine that does nothing else, into docs/performance.md.
# With ARGS, arguments of pytest such as "-k kernels" or "--seconds 0.1", only into build/bench.json, to be compared:
# .venv/bin/python -m benchmarks.compare benchmarks/results/cpu.json build/bench.json
BENCH_JSON := $(if $(ARGS),build/bench.json,benchmarks/results/cpu.json)
bench: setup
	@mkdir -p build
	@$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-quiet --benchmark-json=$(BENCH_JSON) $(ARGS)
	@$(if $(ARGS),echo $(BENCH_JSON),$(BIN)/python -m benchmarks.report)

setup: $(VENV)/.dev

$(BIN)/python:
	@echo "crispstream: creating $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV) >&2 || { rm -rf $(VENV); \
		echo "crispstream: error: no virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.demo: $(BUILD_INPUTS) | $(BIN)/python
	@echo "crispstream: installing the package and compiling its kernels" >&2
	@SKBUILD_CMAKE_DEFINE=CRISPSTREAM_CUDA=$(CRISPSTREAM_CUDA) $(PIP) --editable '.[demo]' >&2
	@touch $@

$(VENV)/.dev: $(BUILD_INPUTS) | $(BIN)/python
	@echo "crispstream: installing $(TORCH)" >&2
	@$(PIP) $(TORCH_ARGS) $(TORCH) >&2
	@echo "crispstream: installing the package and its tools, compiling its kernels" >&2
	@$(PIP) --editable '.[dev]' >&2
	@touch $(VENV)/.demo $@

# Pins of everything, one set of versions for Python 3.10 and one for 3.11 and newer. PyTorch is pinned by hand: its
# CUDA packages belong to its own wheel. Needs uv on the PATH.
COMPILE = uv pip compile --quiet --python-version $(1) --python-platform x86_64-manylinux_2_28 --all-extras \
	--no-annotate --no-header --override build/no-torch.txt --output-file build/pins-$(1).txt \
	pyproject.toml build/also.txt
constraints:
	@mkdir -p build
	@echo "torch ; python_version < '3'" > build/no-torch.txt
	@printf '%s\n' filelock fsspec jinja2 networkx setuptools sympy > build/also.txt
	@$(call COMPILE,3.10)
	@$(call COMPILE,3.11)
	@{ LC_ALL=C; export LC_ALL; cd build; sort -o pins-3.10.txt pins-3.10.txt; sort -o pins-3.11.txt pins-3.11.txt; \
		comm -12 pins-3.10.txt pins-3.11.txt; echo '$(TORCH)'; \
		comm -23 pins-3.10.txt pins-3.11.txt | sed 's/$$/ ; python_version < "3.11"/'; \
		comm -13 pins-3.10.txt pins-3.11.txt | sed 's/$$/ ; python_version >= "3.11"/'; } | LC_ALL=C sort > build/constraints.txt
	@{ echo "# The versions that are tested together; made by \`make constraints\`."; cat build/constraints.txt; } > constraints.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
