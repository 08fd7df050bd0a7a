# `make demo` and `make test` set up what they need and are safe to repeat.
PYTHON ?= python3.11
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY := 1
# Spinning threads starve each other when two processes share two cores, as the distributed tests do.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-dispatch test-cluster lint types tests clean help

help:
	@echo "make demo   train and evaluate the quickstart recipe (4 to 6 minutes on 2 cores)"
	@echo "make test   lint, types, tests"
	@echo "make test-dispatch  the tests that compare numbers, without the processor's vector instructions"
	@echo "make test-cluster   a job under a real Slurm on this machine (root, Debian), 5 minutes"
	@echo "make clean  remove the virtual environment and caches; outputs/ is kept"

# torch first and by its exact version: a range pulls the newest CUDA build, several GB.
.venv: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,deepspeed]'
	touch $@

# What tests need besides, and takes a C compiler to install.
.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[reasoning-gym]'
	$(BIN)/python -c 'import reasoning_gym'  # pip only warns of an extra that it does not know
	touch $@

demo: .venv
	$(BIN)/accelerate launch --quiet --config_file recipes/accelerate/cpu.yaml scripts/train.py \
		recipes/quickstart.yaml --resume

test: lint types tests

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The import name is mapped onto the folders when installed; the type checker sees it through links.
types: .venv
	mkdir -p .types/neuralese
	for part in pipeline rewards data recipes; do ln -sfn ../../$$part .types/neuralese/$$part; done
	MYPYPATH=.types $(BIN)/mypy -p neuralese

# One thread each: small models lose more time to the threads of a process than they gain. Tests that launch processes
# of their own come last and one by one: they use all cores, and one port.
tests: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not launch and not cluster"
	$(BIN)/python -m pytest -m launch

# Tests that compare numbers must hold on every processor. torch and its libraries choose their kernels by what the
# processor can do; here they take the plainest ones, which add in another order.
NUMERIC := actions architectures audit_interventions audit_reading critic draws estimators estimators_closed from_text generate given groups \
	grpo held_out intervals label_scores latent_reward looped lora metrics monitor noise passes ppo ppo_stopping precision quantization quantization_run \
	reasoner rollout_budget rollout_split search selection shared_questions statistics step_labels stopping stopping_gradients supervision rl_metrics rl_options svp think window

test-dispatch: .venv
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 \
		$(BIN)/python -m pytest -n 2 --dist loadfile $(NUMERIC:%=tests/test_%.py)

# A controller and two nodes on this machine. As root, on Debian or Ubuntu, what is missing is installed.
test-cluster: .venv
	(command -v slurmctld && command -v munged && command -v pkill) > /dev/null || apt-get install --yes slurm-wlm munge procps
	$(BIN)/python -m pytest -m cluster tests/cluster

clean:
	rm -rf .venv .types .mypy_cache .pytest_cache .ruff_cache *.egg-info build
