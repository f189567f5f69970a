#!/usr/bin/env bash
# Resolve requirements/cpu.in into requirements/cpu.lock (Python 3.11, Linux x86-64). Needs uv, and a place to find
# torch's CPU wheel: UV_FIND_LINKS (a folder) or UV_EXTRA_INDEX_URL (PyTorch's CPU wheel index).
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile requirements/cpu.in --override requirements/cpu.overrides --output-file requirements/cpu.lock \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-find-links --no-annotate \
  --custom-compile-command requirements/lock.sh "$@"
