#!/usr/bin/env bash
# All checks that need a CUDA machine, within eight minutes: build, tests, compute-sanitizer, benchmark.
#
#   bench/gpu.sh                      from a checkout; python3 has a CUDA build of torch (PYTHON=... chooses another)
#   bench/gpu.sh --skip-build         with fastiqa/*.so, and build/template/*.so if present, from another build
#   bench/gpu.sh [OP ...]             measures these operators alone
#   OUT=DIR bench/gpu.sh              copies logs, rows and a summary to DIR, eight files, after every step
#
# Exit status: 0; 1 if a step failed, after the others have run; 2 for an unknown option; 3 without a CUDA device or a
# CUDA torch. Rows go to bench/data/<device>.csv, logs to build/gpu/.
set -euo pipefail
set -m # otherwise background processes ignore Ctrl-C, which ends a step that takes too long
OUT=${OUT:-}
[[ -z $OUT || $OUT == /* ]] || OUT=$PWD/$OUT
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LOGS=build/gpu
TOTAL=${TOTAL:-455} # seconds; a step gets at most the rest, and ten more to end
LARGEST=4000000     # bytes at the end of a log that are copied

absent() {
    echo "bench/gpu.sh: $1; nothing was run" >&2
    exit 3
}

build=yes
while [[ ${1:-} == -* ]]; do
    case $1 in
        --skip-build) build=no ;;
        *)
            echo "bench/gpu.sh: $1: no such option, want --skip-build" >&2
            exit 2
            ;;
    esac
    shift
done

command -v "$PYTHON" >/dev/null || absent "no $PYTHON (PYTHON=... chooses another)"
command -v nvidia-smi >/dev/null || absent "no nvidia-smi, so no NVIDIA driver"
nvidia-smi -L 2>/dev/null | grep -q '^GPU' || absent "nvidia-smi lists no GPU"
"$PYTHON" -c 'import torch' 2>/dev/null || absent "$PYTHON has no torch"
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    absent "torch $("$PYTHON" -c 'import torch; print(torch.__version__)') sees no CUDA device"
if [ "$build" = no ]; then
    for library in fastiqa/libfastiqa_cpu.so fastiqa/libfastiqa_cuda.so; do
        [ -f "$library" ] || absent "--skip-build, but there is no $library"
    done
fi

export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
rm -rf "$LOGS"
mkdir -p "$LOGS"
failed=()
declare -A running=()
rows=

say() {
    echo "$*" | tee -a "$LOGS/summary.txt"
}

# save: copy the files so far to $OUT
save() {
    [ -n "$OUT" ] || return 0
    mkdir -p "$OUT"
    local file
    for file in summary.txt build.log info.log tests.log memcheck.log racecheck.log bench.log; do
        [ ! -f "$LOGS/$file" ] || tail -c "$LARGEST" "$LOGS/$file" >"$OUT/$file"
    done
    [ -z "$rows" ] || [ ! -f "$rows" ] || cp "$rows" "$OUT/"
}

leave() {
    local status=$?
    trap - EXIT
    local process
    for process in "${running[@]}"; do
        # The group of timeout and its command: a timeout that has just started ends without handing the signal on.
        kill -- "-$process" 2>/dev/null || kill "$process" 2>/dev/null || true
    done
    case $status in
        0 | 1) ;;
        *) say "== ended with status $status after $SECONDS s" ;;
    esac
    save
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# start NAME SECONDS COMMAND...: begin a step, with a time limit and its output in NAME.log
start() {
    local name=$1 seconds=$2 left=$((TOTAL - SECONDS))
    shift 2
    [ "$seconds" -le "$left" ] || seconds=$((left > 1 ? left : 1))
    say "== $name (at most $seconds s, after $SECONDS s): $*"
    timeout --signal=INT --kill-after=10 "$seconds" "$@" >>"$LOGS/$name.log" 2>&1 </dev/null &
    running[$name]=$!
}

# finish NAME: wait for a step and judge it
finish() {
    local name=$1 status=0
    wait "${running[$name]}" || status=$?
    unset "running[$name]"
    tail -n 15 "$LOGS/$name.log"
    case $status in
        0) say "== $name: passed, after $SECONDS s" ;;
        124 | 137)
            say "== $name: stopped at its limit, after $SECONDS s"
            if [ "$name" = bench ]; then
                say "== bench: its rows are kept, and fastiqa bench --resume goes on"
                status=0
            fi
            ;;
    esac
    if [ "$status" -ne 0 ]; then
        say "== $name: FAILED with status $status, all of it in $LOGS/$name.log"
        failed+=("$name")
    fi
    save
}

step() {
    start "$@"
    finish "$1"
}

say "$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit --format=csv,noheader)"
say "$("$PYTHON" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__)')"

arch=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
if [ "$build" = yes ]; then
    step build 200 env FASTIQA_CUDA=1 FASTIQA_CUDA_ARCHS="$arch" "$PYTHON" setup.py build_ext --inplace
else
    export FASTIQA_PREBUILT=1
fi
step info 40 "$PYTHON" -m fastiqa.cli.info
rows=$("$PYTHON" -c 'from fastiqa.bench.runner.rows import default_csv, environment; print(default_csv(environment("cuda")))' ||
    true)

# Tests and both checks run at once: the GPU is idle for most of each. The checks watch the kernels of namespace fastiqa.
# Without caching each allocation is its own, so an address past its end belongs to no other.
workers=()
if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    cores=$(nproc)
    workers=(--numprocesses $((cores > 16 ? 8 : (cores + 1) / 2)))
fi
start tests 200 "$PYTHON" -m pytest -m gpu tests --tb=short --durations=10 --maxfail=50 "${workers[@]}"

sanitizer=$(command -v compute-sanitizer || true)
for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
    [ -n "$sanitizer" ] || [ ! -x "$home/bin/compute-sanitizer" ] || sanitizer=$home/bin/compute-sanitizer
done
if [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        start "$tool" 200 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 99 \
            --report-api-errors no --kernel-name kns=fastiqa --print-limit 20 \
            "$PYTHON" -m pytest -m gpu tests/ops/test_ops.py -k "cuda and test_gradients" --tb=short --maxfail=20
    done
else
    say "== compute-sanitizer: neither on the PATH nor below CUDA_HOME, left out"
    failed+=(compute-sanitizer)
fi
finish tests
[ -z "$sanitizer" ] || for tool in memcheck racecheck; do
    finish "$tool"
done

# Maps beyond the caches: first beside eager PyTorch alone, then beside torch.compile too for the rest of the time.
bench=("$PYTHON" -m fastiqa bench --device cuda --size 8x256x112x112 --layout nhwc --mode fwd --mode fwd_bwd
    --rounds 9 --seconds 0.5)
step bench 240 "${bench[@]}" --no-compile --resume "$@"
[ "$((TOTAL - SECONDS))" -lt 20 ] || step bench "$TOTAL" "${bench[@]}" --compile --dtype bfloat16 "$@"

if [ "${#failed[@]}" -gt 0 ]; then
    say "bench/gpu.sh: failed: ${failed[*]}, after $SECONDS s"
    exit 1
fi
say "bench/gpu.sh: all steps passed in $SECONDS s"
