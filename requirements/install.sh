#!/usr/bin/env bash
# Make a virtual environment of the checkout: a set-up from its lock, and this package, editable.
#
#   requirements/install.sh [NAME]
#
#   NAME         which lock: cpu (the default), in .venv; sglang (on CPU), in .venv-sglang; gpu (vLLM on CUDA), in .venv-gpu
#   PYTHON       the interpreter (default: the first Python that is there of those that the lock is for)
#   TORCH_INDEX  an index with torch's CPU wheel. By default pip looks for it where it is configured to; where that has
#                none, uv takes it from PyTorch's own CPU index, whose address it knows.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-cpu}
lock=requirements/$name.lock
case $name in
  cpu) versions=(3.11 3.12) ;;
  gpu) versions=(3.12) ;;
  sglang) versions=(3.11) ;;
  *)
    echo "NAME=$name is not a set-up: name cpu, sglang or gpu" >&2
    exit 1
    ;;
esac
folder=.venv
[ "$name" = cpu ] || folder=.venv-$name

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  for version in "${versions[@]}"; do
    # Some machines have a command of this name that only says that there is none.
    if version_of "python$version" >/dev/null; then
      python=python$version
      break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "there is no Python ${versions[*]} on PATH, for which $lock is: install one, or name it, as in" \
    "'make PYTHON=/path/to/python${versions[0]}'" >&2
  exit 1
fi
if ! version=$(version_of "$python"); then
  echo "PYTHON=$python is not there, or does not run: name a Python ${versions[*]}, as in" \
    "'make PYTHON=/path/to/python${versions[0]}'" >&2
  exit 1
fi
if [[ " ${versions[*]} " != *" $version "* ]]; then
  echo "PYTHON=$python is Python $version, but $lock pins wheels for Python ${versions[*]}: name one of these" >&2
  exit 1
fi

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)

torch_for_cpu() {
  local torch
  torch=$(grep '^torch==' requirements/torch_cpu.txt)
  if "${pip[@]}" install --quiet --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"; then return; fi
  if [ -n "${TORCH_INDEX:-}" ]; then
    echo "TORCH_INDEX=$TORCH_INDEX does not give $torch: set it to an index with that wheel, or leave it out for" \
      "PyTorch's own; see above for pip's words" >&2
    exit 1
  fi
  echo "pip finds no $torch, which PyPI does not serve: uv takes it from PyTorch's CPU index" >&2
  "${pip[@]}" install --quiet --no-deps --require-hashes -r requirements/installer.lock
  if ! "$folder/bin/uv" pip install --quiet --python "$folder/bin/python" --no-deps --torch-backend cpu "$torch"; then
    echo "$torch cannot be had from PyTorch's CPU index: configure pip to find that wheel (find-links or" \
      "extra-index-url), or set TORCH_INDEX to an index that has it; see above for uv's words" >&2
    exit 1
  fi
}

# Without dependencies: the lock holds all of them, but for those that requirements/$name.overrides leaves out.
[ "$name" = gpu ] || torch_for_cpu
"${pip[@]}" install --quiet --no-deps --require-hashes -r "$lock"
"${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
