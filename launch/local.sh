#!/usr/bin/env bash
# Train on this machine: checks, a log, and the same command goes on where the last try was.
#
#   launch/local.sh --config-name multi_attempt key=value ...
#   launch/local.sh --dry-run --config-name ...    # checks and shows, starts nothing
#
# The arguments are those of verl.trainer.main_ppo. docs/launching.md has the rest.

# --- Settings: environment variables, and what they are if they are not set. ---

# Logs: LAUNCH_LOGS/EXPERIMENT/try-K.log and config.yaml.
: "${LAUNCH_LOGS:=outputs/local}"

set -euo pipefail

# Without it Ray would join a cluster that somebody else runs on this machine.
own_cluster=++ray_kwargs.ray_init.address=local

die() {
  echo "ERROR: $*" >&2
  exit 1
}

# Prints what this script needs of a composed config, a line each.
values_program='
import sys, yaml
with open(sys.argv[1]) as file:
    trainer = yaml.safe_load(file)["trainer"]
for name in ("nnodes", "n_gpus_per_node", "device", "experiment_name", "default_local_dir"):
    print(trainer[name])
'

resolve_config() {
  config=$(mktemp)
  trap 'rm -f "$config"' EXIT
  python -m verl.trainer.main_ppo --cfg job --resolve "$@" "$own_cluster" 2>"$config.err" >"$config" \
    || { tail -n 20 "$config.err" >&2 && rm "$config.err" && die "the config could not be composed; see above"; }
  rm "$config.err"
  values=$(python -c "$values_program" "$config") || die "the config has not what verl's has; see above"
  { read -r nodes && read -r gpus && read -r device && read -r experiment && read -r checkpoints; } <<<"$values"
}

check() {
  local found=0
  [ -z "${RAY_ADDRESS:-}" ] || die "RAY_ADDRESS = $RAY_ADDRESS names a cluster: launch/ray_job.sh trains there, or unset it"
  [ "$nodes" = 1 ] || die "trainer.nnodes = $nodes, but this is one machine: set it to 1, or use launch/slurm.sbatch"
  if [ "$device" = cpu ]; then return; fi
  if command -v nvidia-smi >/dev/null; then found=$(nvidia-smi --list-gpus | wc -l); fi
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then found=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l); fi
  [ "$found" -ge "$gpus" ] \
    || die "trainer.n_gpus_per_node = $gpus, but this machine has $found GPUs: set it to that, or use a config for CPU"
}

main() {
  local dry_run=no status=0 try=0
  if [ "${1:-}" = --dry-run ]; then dry_run=yes && shift; fi
  command -v python >/dev/null || die "no python on PATH: activate the environment that verl is in"
  resolve_config "$@"
  check
  folder=$LAUNCH_LOGS/$experiment
  mkdir -p "$folder"
  cp "$config" "$folder/config.yaml"
  echo "config:      $folder/config.yaml"
  echo "checkpoints: $checkpoints, from step $(saved_step)"
  if [ "$dry_run" = yes ]; then
    printf 'command:     python -m verl.trainer.main_ppo' && printf ' %q' "$@" "$own_cluster" && echo
    return
  fi
  mkdir -p "$checkpoints"
  # Held by the training as well, so that it outlives this script if only that is killed.
  exec 9>"$checkpoints/lock"
  flock --nonblock 9 || die "trainer.default_local_dir = $checkpoints: another training runs there; wait, or end it"
  same_run
  while [ -e "$folder/try-$try.log" ]; do try=$((try + 1)); done
  log=$folder/try-$try.log
  echo "log:         $log"
  train "$@" || status=$?
  [ "$status" -eq 0 ] || echo "training ended with exit status $status; log: $log; the same command goes on from step $(saved_step)" >&2
  return "$status"
}

saved_step() { cat "$checkpoints/latest_checkpointed_iteration.txt" 2>/dev/null || echo 0; }

# All tries on the same checkpoints are one W&B run.
same_run() {
  local file=$checkpoints/wandb_run_id
  [ -s "$file" ] || od -An -N6 -tx1 /dev/urandom | tr -d ' \n' >"$file"
  export WANDB_RUN_ID=${WANDB_RUN_ID:-$(cat "$file")} WANDB_RESUME=${WANDB_RESUME:-allow}
}

# The training, in the log and on the terminal; a signal to this script goes to it.
train() {
  local status=0
  python -m verl.trainer.main_ppo "$@" "$own_cluster" > >(tee "$log") 2>&1 &
  training=$!
  trap 'kill -TERM "$training" 2>/dev/null || true' TERM INT HUP
  wait "$training" || status=$?
  while kill -0 "$training" 2>/dev/null; do wait "$training" || status=$?; done # a trap ends wait early
  return "$status"
}

main "$@"
