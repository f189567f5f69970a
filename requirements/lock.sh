#!/usr/bin/env bash
# Resolve requirements/NAME.in into requirements/NAME.lock (Python 3.11, Linux x86-64), with hashes. Needs uv, and a place to
# find torch's CPU wheel, which is not written to the lock (torch_cpu.txt): UV_FIND_LINKS (a folder) or UV_EXTRA_INDEX_URL
# (PyTorch's CPU wheel index). cpu.lock serves Python 3.12 as well: with `--python-version 3.12` behind NAME the same comes
# out, and must. For GPUs: lock_gpu.sh.
#
#   requirements/lock.sh [NAME [OPTION OF UV ...]]     NAME: cpu (the default), sglang, megatron or installer
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:-cpu}
if [ ! -e "requirements/$name.in" ]; then
  echo "NAME=$name is not a set-up: there is no requirements/$name.in" >&2
  exit 1
fi
options=(--no-emit-package torch)
glibc=2_28
case $name in
  sglang) glibc=2_34 ;; # its wheel's
  megatron) options=(--no-deps) ;;
esac
if [ -e "requirements/$name.overrides" ]; then
  options+=(--override "requirements/$name.overrides")
fi
# uv keeps the versions that the lock has: a new one starts from those of the CPU set-up.
[ -e "requirements/$name.lock" ] || cp requirements/cpu.lock "requirements/$name.lock"
uv pip compile "requirements/$name.in" "${options[@]}" --output-file "requirements/$name.lock" \
  --python-version 3.11 --python-platform "x86_64-manylinux_$glibc" --generate-hashes --no-emit-find-links \
  --no-annotate --custom-compile-command "requirements/lock.sh $name" "${@:2}"
