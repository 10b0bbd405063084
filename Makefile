# Every target sets itself up: `make env` makes .venv from the hashed locks and nothing else.
SHELL := /bin/bash
UV_VERSION := 0.13.9
VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: env lock demo test check bench chaos clean

env: $(VENV)/.ready

# A private uv, so that nothing of the machine's own Python is changed.
.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.ready: .uv/bin/uv pyproject.toml requirements.lock requirements-dev.lock
	.uv/bin/uv venv --quiet --allow-existing --python 3.10 $(VENV)
	.uv/bin/uv pip sync --quiet --require-hashes --python $(PY) requirements-dev.lock
	.uv/bin/uv pip install --quiet --python $(PY) --no-deps --editable .
	touch $@

# requirements.lock is what runs (make, CI and the Bento); requirements-dev.lock adds the test tools to the same pins.
lock: .uv/bin/uv
	.uv/bin/uv pip compile --quiet --generate-hashes --no-header --python-version 3.10 pyproject.toml -o requirements.lock
	.uv/bin/uv pip compile --quiet --generate-hashes --no-header --python-version 3.10 pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock

check: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

demo: env
	$(PY) -m examples.demo

test: env
	$(PY) -m pytest

# BENCH_ARGS="--quick --only http" for a short one.
bench: env
	$(PY) -m benchmarks $(BENCH_ARGS)

# CHAOS_ARGS="--protocol semi2k --minutes 3 --seed 7 --fault kill" for less. As root it cuts lines and restarts hosts too.
chaos: env
	PYTHONPATH=tests:. $(PY) -m chaos $(CHAOS_ARGS)
