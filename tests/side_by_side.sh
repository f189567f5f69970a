#!/usr/bin/env bash
# All tests in two processes at the same time: those with verl's parts in Ray, one after the other, since two runs of verl
# on one machine would share the names of their sockets; and all others, those with vLLM alone last. The latter are shown
# when both have ended.
#
#   tests/side_by_side.sh PYTHON [ARGUMENT OF PYTEST ...]
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=$1
shift
log=$(mktemp)
trap 'rm -f "$log"; [ -z "${others:-}" ] || pkill -P "$others"; kill "${others:-}" 2>/dev/null' EXIT

# Exit status 5: none of the tests that the arguments choose is of this kind.
tests() {
  local kind=$1 status
  shift
  "$python" -m pytest -m "$kind" "$@"
  status=$?
  [ "$status" = 5 ] || return "$status"
}

# Threads that wait for each other at barriers are many times as slow where others want the same cores.
engine_tests() {
  OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind tests "$@"
}

(
  tests "not engine and not vllm" "$@"
  first=$?
  engine_tests vllm "$@"
  second=$?
  exit $((first > second ? first : second))
) >"$log" 2>&1 &
others=$!
engine_tests engine "$@"
engine=$?
wait "$others"
rest=$?
cat "$log"
echo "tests with verl in Ray: exit status $engine; all others: exit status $rest"
exit $((engine > rest ? engine : rest))
