#!/usr/bin/env bash
# Resolves requirements.in and requirements-dev.in in a fresh environment and writes requirements.lock, then containers/requirements.hashes. Called by `make lock`.
set -euo pipefail
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet -r requirements.in -r requirements-dev.in
"$environment/bin/pip" freeze --all > "$environment/freeze"

# CUDA libraries and triton stay out: torch's metadata pins them for its CUDA build (cuDNN, NCCL, cuSPARSELt, NVSHMEM and the CUDA
# toolkit exactly; triton, nvJitLink and cuda-bindings to a compatible range), and a CPU build of torch must not pull them in.
cuda='^(nvidia-|cuda-|triton==)'
{
  echo "# Made by \`make lock\` from requirements.in and requirements-dev.in: do not edit. No package hosts, no local versions: pip's own configuration decides where"
  echo "# wheels come from. CUDA libraries and triton are left to torch's metadata, so that a CPU build of torch can be used, too;"
  echo "# those that torch pins only to a range were resolved with:"
  grep -E '^(triton|nvidia-nvjitlink|cuda-bindings|cuda-pathfinder)==' "$environment/freeze" | sed 's/^/#   /' || true
  grep -Ev "$cuda|^pip==" "$environment/freeze" | sed 's/+cpu$//'
} > requirements.lock

# The same versions with hashes, for images.
bash containers/lock
