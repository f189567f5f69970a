#!/usr/bin/env bash
# Train on a Ray cluster that is already there, as a Ray job.
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265
#   launch/ray_job.sh --config-name multi_attempt trainer.nnodes=4 trainer.default_local_dir=/shared/run key=value ...
#   launch/ray_job.sh --dry-run --config-name ...    # writes the runtime environment and the config, submits nothing
#
# The arguments are those of verl.trainer.main_ppo. docs/launching.md has the rest.

# --- Settings: environment variables, and what they are if they are not set. ---

# The cluster's dashboard: Ray's own variable.
: "${RAY_API_SERVER_ADDRESS:=http://127.0.0.1:8265}"
# upload: this checkout's package goes with the job; its dependencies are in the cluster's image.
# installed: the package is in the image too.
: "${LAUNCH_PLUGIN:=upload}"
# Variables that the job gets from here, where they are set. Ray's dashboard shows them to whoever may open it.
: "${LAUNCH_VARIABLES:=WANDB_API_KEY WANDB_ENTITY WANDB_BASE_URL WANDB_MODE HF_TOKEN HF_HOME HF_HUB_OFFLINE NCCL_SOCKET_IFNAME
  NCCL_IB_HCA GLOO_SOCKET_IFNAME}"
# More options for `ray job submit`, such as --no-wait or --submission-id=NAME.
: "${LAUNCH_RAY_OPTIONS:=}"
# Where the runtime environment and the config are written.
: "${LAUNCH_LOGS:=outputs/ray_job}"

set -euo pipefail
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")

die() {
  echo "ERROR: $*" >&2
  exit 1
}

# Prints trainer.default_local_dir of a composed config.
values_program='
import sys, yaml
with open(sys.argv[1]) as file:
    print(yaml.safe_load(file)["trainer"]["default_local_dir"])
'

# Writes the runtime environment: FILE PACKAGE RUN VARIABLE...
environment_program='
import json, os, sys
file, package, run, *names = sys.argv[1:]
variables = {name: os.environ[name] for name in names if name in os.environ}
variables |= {"WANDB_RUN_ID": os.environ.get("WANDB_RUN_ID", run), "WANDB_RESUME": os.environ.get("WANDB_RESUME", "allow")}
environment = {"env_vars": {"NCCL_SOCKET_FAMILY": "AF_INET", **variables}}
if package:
    environment["working_dir"] = package
with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
    json.dump(environment, output, indent=2)
'

resolve_config() {
  python -m verl.trainer.main_ppo --cfg job --resolve "$@" >"$folder/config.yaml" 2>"$folder/config.err" \
    || { tail -n 20 "$folder/config.err" >&2 && die "the config could not be composed; all of the error: $folder/config.err"; }
  rm "$folder/config.err"
  checkpoints=$(python -c "$values_program" "$folder/config.yaml") || die "the config has not what verl's has; see above"
  [[ $checkpoints == /* ]] || die "trainer.default_local_dir = $checkpoints is relative, and a Ray job's folder differs by \
node and goes with the job: set it to a folder on a file system that all nodes share"
}

# The package as pip installs it, in a folder: Ray sends it to all nodes and puts it on sys.path, entry points and all.
build_package() {
  local source=$folder/source
  case $LAUNCH_PLUGIN in
    installed) package="" && return ;;
    upload) package=$folder/package ;;
    *) die "LAUNCH_PLUGIN = $LAUNCH_PLUGIN: it takes upload or installed" ;;
  esac
  rm -rf "$package" "$source"
  mkdir -p "$source"
  # A copy, for setuptools leaves what it builds beside the sources.
  (cd "$root" && tar --create --exclude=__pycache__ pyproject.toml README.md LICENSE multi_attempt verl_ext config eval \
    hydra_plugins) | tar --extract --directory="$source"
  python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --target "$package" "$source" \
    || die "the package could not be built; see above"
  rm -rf "$source"
}

main() {
  local dry_run=no command
  if [ "${1:-}" = --dry-run ]; then dry_run=yes && shift; fi
  folder=$(realpath --canonicalize-missing "$LAUNCH_LOGS")
  mkdir -p "$folder"
  resolve_config "$@"
  build_package
  # The same checkpoints, the same W&B run.
  # shellcheck disable=SC2086
  python -c "$environment_program" "$folder/runtime_env.json" "$package" \
    "multi-attempt-$(sha256sum <<<"$checkpoints" | cut -c1-12)" $LAUNCH_VARIABLES
  # A cluster has its own resources, and Ray refuses to be told.
  # shellcheck disable=SC2206
  command=(ray job submit "--address=$RAY_API_SERVER_ADDRESS" "--runtime-env=$folder/runtime_env.json" $LAUNCH_RAY_OPTIONS --
    python -m verl.trainer.main_ppo "$@" ray_kwargs.ray_init.num_cpus=null ++ray_kwargs.ray_init.num_gpus=null)
  echo "config:              $folder/config.yaml"
  echo "runtime environment: $folder/runtime_env.json"
  echo "checkpoints:         $checkpoints"
  printf 'command:            ' && printf ' %q' "${command[@]}" && echo
  if [ "$dry_run" = no ]; then exec "${command[@]}"; fi
}

main "$@"
