#!/usr/bin/env bash
# Everything that only a CUDA machine can show, within ten minutes: build, tests, compute-sanitizer, benchmark.
#
#   bench/gpu.sh                 from a checkout, in an environment with a CUDA build of torch
#   PYTHON=.venv/bin/python bench/gpu.sh [OP ...]
#
# Exit status: 0; 1 where a step failed, after the others have run; 3 where there is no CUDA device or no CUDA torch.
# Rows go to bench/data/<device>.csv, logs to build/gpu/.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
LOGS=build/gpu

absent() {
    echo "bench/gpu.sh: $1; nothing was run" >&2
    exit 3
}

command -v "$PYTHON" >/dev/null || absent "no $PYTHON (PYTHON=... chooses another)"
command -v nvidia-smi >/dev/null || absent "no nvidia-smi, so no NVIDIA driver"
nvidia-smi -L 2>/dev/null | grep -q '^GPU' || absent "nvidia-smi lists no GPU"
"$PYTHON" -c 'import torch' 2>/dev/null || absent "$PYTHON has no torch"
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    absent "torch $("$PYTHON" -c 'import torch; print(torch.__version__)') sees no CUDA device"

mkdir -p "$LOGS"
failed=()

# step NAME SECONDS COMMAND...: run with a time limit, output to a log and its end to the terminal
step() {
    local name=$1 seconds=$2 status=0
    shift 2
    echo "== $name (at most $seconds s): $*"
    timeout --signal=INT --kill-after=10 "$seconds" "$@" >"$LOGS/$name.log" 2>&1 || status=$?
    tail -n 15 "$LOGS/$name.log"
    if [ "$name" = bench ] && [ "$status" -eq 124 ]; then
        echo "== bench: not finished after $seconds s; its rows are kept, and fastiqa bench --resume goes on"
        status=0
    elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "== $name: stopped after $seconds s"
    fi
    if [ "$status" -ne 0 ]; then
        echo "== $name: FAILED with status $status, all of it in $LOGS/$name.log"
        failed+=("$name")
    fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit --format=csv

arch=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
step build 150 env FASTIQA_CUDA=1 FASTIQA_CUDA_ARCHS="$arch" "$PYTHON" setup.py build_ext --inplace
step info 20 env PYTHONPATH="$PWD" "$PYTHON" -m fastiqa.info
step tests 150 env PYTHONPATH="$PWD" "$PYTHON" -m pytest -m gpu tests

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step "$tool" 60 env PYTHONPATH="$PWD" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$PYTHON" -m pytest bench --benchmark-disable
    done
else
    echo "== compute-sanitizer: not on the PATH, left out"
    failed+=(compute-sanitizer)
fi

step bench 140 env PYTHONPATH="$PWD" "$PYTHON" -m fastiqa bench --device cuda --rounds 9 --resume "$@"

if [ "${#failed[@]}" -gt 0 ]; then
    echo "bench/gpu.sh: failed: ${failed[*]}"
    exit 1
fi
echo "bench/gpu.sh: all steps passed"
