#!/usr/bin/env bash
# Everything that needs a GPU, in one call: accuracy against fp64, layouts, repeatability, compute-sanitizer, training, benchmarks. One line a check.
# Wants a build in build/ (lib/libflarec_compiler.so, lib/libflarec_torch.so, bin/flare-train, and bin/flarec) and a python3 with PyTorch.
#
#   tests/gpu/run.sh [--quick] [--random CASES] [OUTPUT_DIRECTORY]        (1000 random cases, 64 with --quick)
#
# Writes summary.txt, accuracy.txt and bench*.json into the directory (default: a temporary one), ends with the number of failures.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
quick=0
random=1000
[ "${1:-}" = --quick ] && { quick=1; random=64; shift; }
[ "${1:-}" = --random ] && { random=$2; shift 2; }
out=${1:-$(mktemp -d)}
mkdir -p "$out"
export PYTHONUNBUFFERED=1
torch_lib=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
export LD_LIBRARY_PATH=$torch_lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
failures=0
note() { echo "$1" | tee -a "$out/summary.txt"; }
verdict() { # name, exit status, seconds, log
  if [ "$2" = 0 ]; then note "ok   $1 ($3 s)"; else note "FAIL $1 ($3 s)"; tail -n 15 "$4"; failures=$((failures + 1)); fi
}
check() { # name, command…
  local name=$1; shift
  local start=$SECONDS
  "$@" > "$out/log.txt" 2>&1
  verdict "$name" $? $((SECONDS - start)) "$out/log.txt"
}

# The same in the background, for what waits for the processor; `finished` tells how it went.
background=()
start() { # file, name, command…
  local file=$1 name=$2
  shift 2
  (SECONDS=0; "$@" > "$out/$file.log" 2>&1; echo "$? $SECONDS" > "$out/$file.done") &
  background+=("$! $file $name")
}
finished() {
  local job pid file name status seconds
  for job in "${background[@]}"; do
    read -r pid file name <<< "$job"
    wait "$pid"
    read -r status seconds < "$out/$file.done"
    verdict "$name" "$status" "$seconds" "$out/$file.log"
    rm -f "$out/$file.done" "$out/$file.log"
  done
  background=()
}

: > "$out/summary.txt"
note "flarec $(cat build/revision 2>/dev/null || git rev-parse --short HEAD 2>/dev/null || echo '?'), $(python3 -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)'), driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader), $(date +%F)"

# Accuracy: a process for each head dimension and dtype.
latents="1 16 17 64 128 512"; tokens="0 1 63 64 65 4099"
[ $quick = 1 ] && { latents="1 17 128"; tokens="0 1 65 4099"; }
pids=()
for dtype in bf16 fp32 fp16; do
  for d in 4 8 16 32 64 128; do
    [ $d -gt 32 ] && many="17 100 256" || many=$latents # wide heads have few latents
    (cd tests/ops && python3 accuracy.py --device cuda --head-dims $d --latents $many --tokens $tokens --dtypes $dtype --scores 1 10 outliers) \
      > "$out/accuracy-$dtype-$d.txt" 2>&1 &
    pids+=($!)
  done
done
for pid in "${pids[@]}"; do wait "$pid"; done
for dtype in bf16 fp32 fp16; do
  for d in 4 8 16 32 64 128; do
    last=$(tail -n 1 "$out/accuracy-$dtype-$d.txt")
    bad=$(grep -c '^FAIL' "$out/accuracy-$dtype-$d.txt")
    if [ "$bad" = 0 ] && [[ $last == *"checks hold"* ]]; then note "ok   accuracy $dtype D=$d: $last"; else note "FAIL accuracy $dtype D=$d: $last"; failures=$((failures + 1)); grep '^FAIL' "$out/accuracy-$dtype-$d.txt" | cut -c1-260; fi
  done
done
# Random cases, split over the processor's cores, which compile most of the time, and what else does.
start layouts "layouts, repeatability, streams, graphs, non-finite values" python3 tests/gpu/layouts.py
start configurations "twenty random configurations, put before the ops as tuned" python3 tests/gpu/configurations.py --jobs 6
start masks "masks, lengths, packed sequences" env FLAREC_TEST_DEVICE=cuda python3 tests/ops/test_masks.py
pooled=()
for dtype in bf16 fp32 fp16; do
  (cd tests/ops && python3 accuracy.py --device cuda --pooled --head-dims 4 8 16 32 --dtypes $dtype) > "$out/pooled-$dtype.txt" 2>&1 &
  pooled+=($!)
done
workers=16
share=$((((random + workers - 1) / workers + 3) / 4 * 4)) # consecutive seeds share kernels by fours
pids=()
start=$SECONDS
for ((first = 0; first < random; first += share)); do
  count=$((random - first < share ? random - first : share))
  (cd tests/ops && OMP_NUM_THREADS=1 python3 accuracy.py --device cuda --random $count --seed $first) > "$out/random-$first.txt" 2>&1 &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
held=$(grep -c '^ok ' "$out"/random-*.txt | awk -F: '{ sum += $2 } END { print sum }')
unfinished=$(grep -L 'accuracy checks hold' "$out"/random-*.txt)
if [ "$held" = "$random" ] && [ -z "$unfinished" ]; then
  note "ok   $random random cases ($((SECONDS - start)) s)"
else
  note "FAIL random cases: $held of $random hold ($((SECONDS - start)) s)"
  failures=$((failures + 1))
  grep -h -A1 '^FAIL' "$out"/random-*.txt | grep -v '^--' | cut -c1-360 | head -n 40
  for file in $unfinished; do note "     $(basename "$file"): $(tail -n 1 "$file")"; done
fi
finished
for pid in "${pooled[@]}"; do wait "$pid"; done
for dtype in bf16 fp32 fp16; do
  last=$(tail -n 1 "$out/pooled-$dtype.txt")
  if grep -q '^FAIL' "$out/pooled-$dtype.txt" || [[ $last != *"checks hold"* ]]; then note "FAIL pooled accuracy $dtype: $last"; failures=$((failures + 1)); grep '^FAIL' "$out/pooled-$dtype.txt" | cut -c1-260; else note "ok   pooled accuracy $dtype: $last"; fi
done
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    start $tool "compute-sanitizer $tool" timeout 200 compute-sanitizer --tool $tool --kernel-regex kns=mixer --error-exitcode 9 python3 tests/gpu/layouts.py --small
  done
  finished
fi
if [ -x build/bin/flare-train ]; then
  data=${FLAREC_DATA:-../shared/data/darcy}
  [ -e "$data/train_16_x.npy" ] || data=synthetic
  train() { build/bin/flare-train --data "$data" --device cuda --attention flarec --blocks 2 --channels 64 --heads 8 --latents 32 --batch 8 --epochs 15 --seed 0; }
  check "flare-train on $data" train
  note "     $(tail -n 1 "$out/log.txt")"
  check "losses agree with SDPA's as two of its backends do, in fp32 and under autocast to bf16 and fp16" \
    python3 tests/ops/compare_losses.py --device cuda --data "$data" --threads 2 --jobs 5
  grep geometric "$out/log.txt" | sed 's/^/     /' | tee -a "$out/summary.txt"
fi
python3 - <<'PY' | tee -a "$out/summary.txt"
import os, sys, tempfile, time
sys.path.insert(0, "tests/ops")
os.environ["CUDA_CACHE_DISABLE"] = "1"
import flarec_test, torch
ops = flarec_test.load()
x = torch.randn(1, 8, 64, 8, device="cuda", dtype=torch.bfloat16)
q = torch.randn(8, 128, 8, device="cuda", dtype=torch.bfloat16, requires_grad=True)
torch.cuda.synchronize()
t = time.perf_counter()
y = ops.mixer(q, x, x, 1.0)
torch.autograd.grad(y.sum(), q)
torch.cuda.synchronize()
print(f"     from description to the first gradients, cold: {time.perf_counter() - t:.2f} s")
PY
shapes=(8,8,64,1048576 8,8,128,1048576 8,8,512,1048576 16,4,256,1048576 8,16,128,1048576 8,8,2048,1048576 8,16,512,1048576 8,32,128,1048576 8,32,256,1048576
  4,64,128,1048576 8,128,128,1048576 8,8,128,131072 8,8,128,16384)
[ $quick = 1 ] && shapes=(8,8,128,1048576)
python3 bench/mixer.py --shapes "${shapes[@]}" --json "$out/bench.json" 2> /dev/null | tee -a "$out/summary.txt"
if [ $quick = 0 ]; then
  python3 bench/mixer.py --dtype fp32 --rounds 5 --shapes 8,8,128,1048576 8,8,512,1048576 --json "$out/bench-fp32.json" 2> /dev/null | grep -v '^ ' | tee -a "$out/summary.txt"
  python3 bench/mixer.py --dtype fp16 --shapes 8,8,128,1048576 8,16,128,1048576 --json "$out/bench-fp16.json" 2> /dev/null | grep -v '^ ' | tee -a "$out/summary.txt"
fi
# Few files: all accuracy lines in one.
cat "$out"/accuracy-*.txt "$out"/random-*.txt "$out"/pooled-*.txt > "$out/accuracy.txt" && rm -f "$out"/accuracy-*.txt "$out"/random-*.txt "$out"/pooled-*.txt "$out/log.txt"
note "$failures checks failed"
exit $((failures != 0))
