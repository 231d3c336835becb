# Two commands are all a newcomer needs: `make demo` and `make test`.

PYTHON := .venv/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test wheel bench build cuda limits setup clean

help:
	@echo "make demo    train a byte-level language model: dense, Watts-Strogatz, Barabasi-Albert"
	@echo "make test    run every test"
	@echo "make wheel   build dist/bsparse_tf-*.whl"
	@echo "make bench   time the products beside TensorFlow's and SciPy's"
	@echo "make build   build the native libraries into bsparse_tf/"
	@echo "make cuda    the same, with the CUDA kernels even if no GPU is visible"
	@echo "make limits  build what measures a GPU's rates (benchmarks/gpu_constants, gpu_mixture)"
	@echo "make setup   install what is needed: Debian packages, .venv"
	@echo "make clean   remove what was built"

setup:
	@tools/setup

build: setup
	@tools/build

cuda: setup
	@BSPARSE_CUDA=1 tools/build

limits: setup
	@BSPARSE_CUDA=1 bazel build //benchmarks:gpu_constants //benchmarks:libgpu_mixture.so

demo: build
	@$(PYTHON) examples/byte_lm.py $(ARGS)

test: build
	bazel test //...
	$(PYTHON) -m pytest tests $(ARGS)

wheel: setup
	@tools/wheel

bench: build
	@$(PYTHON) -m bsparse_tf bench $(ARGS)

clean:
	-bazel clean
	rm -rf .bazel build dist *.egg-info .pytest_cache .hypothesis
	rm -f bsparse_tf/*.so bsparse_tf/_build_info.py
	find bsparse_tf tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
