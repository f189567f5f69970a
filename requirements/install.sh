#!/usr/bin/env bash
# Make a virtual environment of the checkout: a CPU set-up from its lock, and this package, editable.
#
#   requirements/install.sh [NAME]
#
#   NAME         which lock: cpu (the default), in .venv; sglang, in .venv-sglang
#   PYTHON       the interpreter (default: python3.11; the lock is for 3.11)
#   TORCH_INDEX  PyTorch's CPU wheel index, where pip is not already configured to find torch's CPU wheel
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
name=${1:-cpu}
lock=requirements/$name.lock
if [ ! -e "$lock" ]; then
  echo "NAME=$name is not a set-up: there is no $lock" >&2
  exit 1
fi
folder=.venv
[ "$name" = cpu ] || folder=.venv-$name
torch=$(grep '^torch==' "$lock")

if ! command -v "$python" >/dev/null; then
  echo "PYTHON=$python is not there: install Python 3.11, or name it, as in 'make PYTHON=/path/to/python3.11'" >&2
  exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$version" != 3.11 ]; then
  echo "PYTHON=$python is Python $version, but $lock pins wheels for Python 3.11: name a Python 3.11" >&2
  exit 1
fi

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)
if ! "${pip[@]}" install --quiet --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"; then
  if [ -n "${TORCH_INDEX:-}" ]; then
    echo "TORCH_INDEX=$TORCH_INDEX does not give $torch: set it to PyTorch's CPU wheel index (see PyTorch's" \
      "installation page), and see above for pip's own words" >&2
  else
    echo "pip finds no $torch, which PyPI does not serve: configure pip to find that wheel (find-links or" \
      "extra-index-url), or set TORCH_INDEX to PyTorch's CPU wheel index (see PyTorch's installation page)" >&2
  fi
  exit 1
fi
# Without dependencies: the lock holds all of them, but for those that requirements/$name.overrides leaves out.
"${pip[@]}" install --quiet --no-deps -r <(grep -v '^torch==' "$lock")
"${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
