#!/usr/bin/env bash
# Resolve the extras vllm and eval of pyproject.toml into requirements/gpu.lock (Python 3.12, Linux x86-64, CUDA), with
# hashes. Nothing is installed. Needs uv and a package index. Options are uv's: --upgrade for newer versions.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml requirements/gpu.in --extra vllm --extra eval --output-file requirements/gpu.lock \
  --python-version 3.12 --python-platform x86_64-manylinux_2_31 --generate-hashes --no-annotate \
  --custom-compile-command requirements/lock_gpu.sh "$@"
