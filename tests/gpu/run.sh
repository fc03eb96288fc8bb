#!/usr/bin/env bash
# All that wants a GPU, in one run of under 8 minutes and without a package index: builds the CUDA backend for the
# GPU at hand, compares every operation and tiny models with the CPU's scalar twin, looks for bad memory accesses,
# and measures. Needs nvcc, a C++20 compiler, cmake and ninja (or make). Writes to the folder $OUT, or build/gpu.
#   tests/gpu/run.sh [MODEL.gguf]     a model to compare token by token, such as SmolLM2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=${1:-}
build=build/gpu-device
out=${OUT:-$build}
mkdir -p "$build" "$out"

if ! { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; then
  echo "skipped: no NVIDIA GPU here"
  exit 0
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem --format=csv | tee "$out/gpu.csv"

stage() {
  local name=$1 start=$SECONDS status=0
  shift
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$out/${name// /-}.log" | tail -n 40 || status=$?
  printf '== %s: %s in %d s\n' "$name" "$([ $status = 0 ] && echo ok || echo FAILED)" $((SECONDS - start))
  [ $status = 0 ] || failed+="$name; "
}
failed=""

build() {
  local generator=()
  command -v ninja >/dev/null && generator=(-G Ninja)
  cmake -S tests/gpu -B "$build" "${generator[@]}" -DPYLLM_EMULATE=OFF -DPYLLM_SANITIZE=OFF >/dev/null
  cmake --build "$build" -j "$(nproc)"
}
sanitizer() {
  local tool
  if ! tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null); then
    echo "skipped: no compute-sanitizer"
    return
  fi
  for check in memcheck racecheck; do
    timeout 45 "$tool" --tool $check --error-exitcode 9 "$build/compare_backends" --smoke || return
  done
}
bench() {
  timeout 200 "$build/bench" | tee "$out/speed.json"
}

stage "build" build
[ -z "$failed" ] || { echo "failed: $failed"; exit 1; }
stage "operations" timeout 120 "$build/compare_backends" tests/golden/architectures
if [ -n "$model" ]; then stage "model" timeout 60 "$build/compare_backends" --only models "$model"; fi
stage "speed" bench
stage "sanitizer" sanitizer
[ -z "$failed" ] && echo "all passed in $SECONDS s" || { echo "failed: $failed"; exit 1; }
