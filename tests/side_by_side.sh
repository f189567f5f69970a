#!/usr/bin/env bash
# All tests in two processes at the same time: those with an engine, one after the other, since two runs of verl on one
# machine would share the names of their sockets; and all others, which are shown when both have ended.
#
#   tests/side_by_side.sh PYTHON [ARGUMENT OF PYTEST ...]
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=$1
shift
log=$(mktemp)
trap 'rm -f "$log"; kill "${others:-}" 2>/dev/null' EXIT

"$python" -m pytest -m "not engine" "$@" >"$log" 2>&1 &
others=$!
# Threads that wait for each other at barriers are many times as slow where others want the same cores.
OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind "$python" -m pytest -m engine "$@"
engine=$?
wait "$others"
rest=$?
cat "$log"

# 5: none of the tests that the arguments choose is of this kind.
[ "$engine" = 5 ] && [ "$rest" = 0 ] && engine=0
[ "$rest" = 5 ] && [ "$engine" = 0 ] && rest=0
echo "tests with an engine: exit status $engine; all others: exit status $rest"
exit $((engine > rest ? engine : rest))
