# The environment is made once from pinned versions; every target uses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CORPUS := out/bench/corpus
KIT := ../shared/kit

.PHONY: demo test test-fast test-long test-cluster test-trainers lint bench bench-smoke bench-families bench-pack bench-start bench-update bench-video bench-audio bench-text bench-stream docs wheel try-wheel licences hashes audit bytes fuzz soak bombs steady clean

# torch first: its CPU build where one can be had, see the script
$(READY): pyproject.toml configs/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py
	$(BIN)/pip install --quiet --constraint configs/constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/vlm-prep demo

# in parts, since a worker keeps the processors and models that its tests have loaded: as one it comes to 12 GB
LOADING := tests/families tests/tokenize tests/omni tests/oracle
test: $(READY)
	$(BIN)/ruff check vlm_prep scripts tests
	$(BIN)/ruff format --check vlm_prep scripts tests
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile -m "not long" tests/families
	$(BIN)/pytest -n 2 --dist loadfile -m "not long" tests/tokenize tests/omni tests/oracle
	$(BIN)/pytest -n 2 --dist loadfile -m "not long" $(LOADING:%=--ignore=%)

# what `make test` leaves out because another test of the same code is in it
test-long: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m long

# for daily work: without worker processes, the kit's processors, trainers and servers
test-fast: $(READY)
	$(BIN)/ruff check vlm_prep scripts tests
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not long"

# Ray clusters on this machine; Ray is not in the usual environment
test-cluster: $(READY)
	$(BIN)/pip install --quiet --constraint configs/constraints.txt --editable '.[dev,cluster-dev]'
	$(BIN)/pytest tests/engine/test_ray.py

# other trainers' real packages, each in an environment of its own that reads this one's torch
test-trainers: $(READY)
	$(BIN)/python scripts/trainer_env.py axolotl energon llamafactory megatron-core ms-swift nemo-automodel torchtitan readers
	$(BIN)/pytest tests/trainers/test_real_trainers.py tests/trainers/test_recipes.py tests/compat/test_reordered.py

lint: $(READY)
	$(BIN)/ruff check vlm_prep scripts tests
	$(BIN)/ruff format --check vlm_prep scripts tests
	$(BIN)/mypy

# the documentation as a site in out/site; a link that leads nowhere ends it
docs: $(READY)
	$(BIN)/pip install --quiet --constraint configs/constraints.txt 'mkdocs-material' 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml

bench: $(READY)
	$(BIN)/python scripts/bench_tokenize.py --kit $(KIT) --samples 2000

bench-smoke: $(READY)
	$(BIN)/python scripts/bench_tokenize.py --kit $(KIT) --samples 60 --plain 10
	$(BIN)/python scripts/bench_pack.py --small

bench-families: $(READY)
	$(BIN)/python scripts/bench_families.py --kit $(KIT)

bench-start: $(READY)
	$(BIN)/python scripts/bench_start.py --kit $(KIT)

bench-update: $(READY)
	$(BIN)/python scripts/bench_update.py out/bench/update

bench-video: $(READY)
	$(BIN)/python scripts/bench_video.py

bench-audio: $(READY)
	$(BIN)/python scripts/bench_audio.py

# chats of text alone, in three languages
bench-text: $(READY)
	$(BIN)/python $(KIT)/processors/assemble.py out/bench/processors qwen2_5_vl
	$(BIN)/python scripts/bench_text.py --processor out/bench/processors/qwen2_5_vl

bench-pack: $(READY)
	$(BIN)/python scripts/bench_pack.py

# twice, to see that its bytes depend on the sources alone
wheel: $(READY)
	$(BIN)/python scripts/supply_chain.py wheel

# installed outside the checkout, on each supported Python that is at hand, and its demo run
try-wheel: $(READY)
	$(BIN)/python scripts/try_wheel.py

licences: $(READY)
	$(BIN)/python scripts/supply_chain.py licences

hashes: $(READY)
	$(BIN)/pip install --quiet uv
	$(BIN)/python scripts/supply_chain.py hashes

# needs the network: vulnerabilities are asked for, package by package
audit: $(READY)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/python scripts/supply_chain.py audit

# every byte of small stores, changed once: about half an hour of a core
bytes: $(READY)
	$(BIN)/python scripts/every_byte.py
	$(BIN)/python scripts/every_byte.py --forge

MINUTES := 60
fuzz: $(READY)
	$(BIN)/python scripts/fuzz.py --minutes $(MINUTES)

soak: $(READY)
	$(BIN)/python scripts/soak.py --kills 200
	$(BIN)/python scripts/soak_commands.py --kills 1000
	$(BIN)/python scripts/soak_faults.py --rounds 400

bombs: $(READY)
	$(BIN)/python scripts/bombs.py

steady: $(READY)
	$(BIN)/python scripts/steady.py

# mosaicml-streaming asks for older transformers and numpy: it gets an environment of its own, which reads this torch
bench-stream: $(READY)
	-$(BIN)/python scripts/trainer_env.py mosaicml-streaming
	$(BIN)/python scripts/bench_stream.py --kit $(KIT) --mds-python .venv-trainers-mosaicml-streaming/bin/python

clean:
	rm -rf out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
