#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, from an existing build (make cuda-tests): checks, then measurements.
#
#   tests/cuda/run.sh [PART ...]      parts, in this order when none is named:
#
#   check     every kernel against portable C, both networks against the golden vectors, the engine's equivalences
#   logits    logits at the 9B shape against transformers on this machine, and transformers' own speed  (needs torch)
#   demo      the demonstration model: the answers of GPU and CPU to the same screens
#   kernels   single kernels at the 9B shapes, beside the device's copy rate
#   latency   9B shape: one stream at 512 and 6,000 tokens of context, then 8 to 256 streams
#   load      9B shape: 256 requests of 512 in / 256 out at once, and a full-size screenshot over HTTP
#   startup   9B shape: from nothing to the first token
#
#   BUILD=build/cuda   OUT=. (result files)   WORK=/tmp/... (22 GB for logits)   MODEL=models/shapes/autoglm-phone-9b   DEVICE=cuda
#   PORT=8123   QUICK=1 (small sizes, to try the script itself)
#
# The last line says how many checks passed and failed. Nothing is built, nothing on the GPU is set.
set -u
cd "$(dirname -- "$0")/../.." || exit 1
BUILD=${BUILD:-build/cuda}
OUT=${OUT:-.}
MODEL=${MODEL:-models/shapes/autoglm-phone-9b}
DEVICE=${DEVICE:-cuda}
PORT=${PORT:-8123}
QUICK=${QUICK:-}
WORK=${WORK:-$(mktemp -d)}
AUTOGLM=$BUILD/autoglm
passed=0
failed=0
server=

note() { printf '\n== %s\n' "$*"; }

# try NAME COMMAND...: one check; its output only if it fails, or the last lines of it.
try() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$WORK/try.log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name ($(($(date +%s) - start)) s) $(grep -iE '^skip' "$WORK/try.log" | head -1)"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: $*"
        grep -vE '^\[ +(RUN|OK)' "$WORK/try.log" | tail -25
    fi
}

# measure KIND ARGS...: autoglm bench; one that fails counts.
measure() {
    "$AUTOGLM" bench "$@" && return
    failed=$((failed + 1))
    echo "FAILED  autoglm bench $*"
}

# full VALUE QUICK_VALUE
full() { if [ -n "$QUICK" ]; then echo "$2"; else echo "$1"; fi; }

fetch() {
    python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' \
        "http://127.0.0.1:$PORT/$1"
}

# serve ARGS...: a server in the background; returns when it is ready.
serve() {
    "$AUTOGLM" serve --port "$PORT" --served-model-name autoglm-phone-9b "$@" >"$WORK/server.log" 2>&1 &
    server=$!
    tries=0
    until fetch readyz >/dev/null 2>&1; do
        tries=$((tries + 1))
        if ! kill -0 "$server" 2>/dev/null || [ "$tries" -gt 600 ]; then
            echo "FAILED  the server does not start"
            tail -5 "$WORK/server.log"
            failed=$((failed + 1))
            stop_server
            return 1
        fi
        sleep 0.2
    done
}

stop_server() {
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null; wait "$server" 2>/dev/null; }
    server=
}
trap stop_server EXIT

run_check() {
    for program in "$BUILD"/tests/cuda/check_cuda_*; do try "$(basename "$program")" "$program"; done
    for dtype in float32 bfloat16 float16; do
        try "golden/test_model $dtype" env AGL_TEST_DEVICE=cuda AGL_TEST_DTYPE=$dtype "$BUILD/tests/cuda/test_model"
    done
    try "engine/test_equivalence" env AGL_TEST_DEVICE=cuda "$BUILD/tests/cuda/test_equivalence"
}

run_logits() {
    # shellcheck disable=SC2046 # two words
    try "logits against transformers" python3 tests/cuda/compare_transformers.py --program "$BUILD/tests/cuda/model_logits" \
        --shape "$MODEL" --device "$DEVICE" --tokens "$(full 512 40)" --image $(full "2408 1092" "140 112") --speed --work "$WORK" --json "$OUT/logits.json"
    cat "$WORK/try.log"
}

# The same screens to the same model on both devices: digests of greedy text must agree in F32; in BF16 we report.
run_demo() {
    for device in cpu "$DEVICE"; do
        for dtype in float32 bfloat16; do
            [ "$device $dtype" != "cpu bfloat16" ] || continue
            serve --device "$device" --dtype "$dtype" --gpu-memory-utilization 0.1 --log-level warning || continue
            "$AUTOGLM" bench serve --base-url "http://127.0.0.1:$PORT" --dataset-name screens --num-prompts "$(full 40 1)" --max-concurrency 4 \
                --random-output-len "$(full 96 4)" --quiet --allow-lag --save-detailed --save-result "$OUT/demo-$device-$dtype.json" >"$WORK/try.log" 2>&1
            stop_server
        done
    done
    try "demonstration model, GPU as CPU" python3 - "$OUT/demo-cpu-float32.json" "$OUT/demo-$DEVICE-float32.json" "$OUT/demo-$DEVICE-bfloat16.json" <<'PY'
import json, sys
cpu, exact, half = [json.load(open(path))["generated_texts"] for path in sys.argv[1:]]
for name, texts in (("float32", exact), ("bfloat16", half)):
    same = sum(a == b for a, b in zip(cpu, texts))
    print(f"{name}: {same} of {len(cpu)} answers as on the CPU")
assert cpu == exact and len(cpu) > 0
PY
    tail -3 "$WORK/try.log"
}

run_kernels() {
    measure kernels --device "$DEVICE" --model "$MODEL" --save-result "$OUT/kernels.json"
    for family in linear attention rows; do "$BUILD/tests/cuda/check_cuda_$family" --bench; done
}

run_latency() {
    for context in $(full "512 6000" 64); do
        measure latency --device "$DEVICE" --model "$MODEL" --load-format dummy --input-len $context --output-len "$(full 128 4)" \
            --batch-size 1 --num-iters "$(full 3 1)" --save-result "$OUT/latency-1-$context.json"
    done
    # shellcheck disable=SC2046 # words of a list
    measure platform --device "$DEVICE" --model "$MODEL" --load-format dummy --formats bf16 --batches $(full "1 2 4 8 32 64 128 256" "1 2") \
        --input-len "$(full 512 32)" --output-len "$(full 64 4)" --num-iters "$(full 2 1)" \
        --image-width "$(full 1080 112)" --image-height "$(full 2400 140)" --save-result "$OUT/platform.json"
}

run_load() {
    serve --device "$DEVICE" --model "$MODEL" --load-format dummy --max-num-seqs 256 --log-level warning || return
    measure serve --base-url "http://127.0.0.1:$PORT" --num-prompts "$(full 256 4)" --random-input-len "$(full 512 16)" --random-output-len "$(full 256 4)" --ignore-eos \
        --num-warmups 4 --save-result "$OUT/load-256.json"
    step_metrics "256 requests"
    nvidia-smi --query-gpu=memory.used,memory.total --format=csv,noheader 2>/dev/null | sed 's/^/device memory in use, of: /'
    # A phone's turn: 3,354 tokens of the picture, 1,546 of the text (one a byte here) and the template. Other pictures warm up.
    turns="--base-url http://127.0.0.1:$PORT --dataset-name screens --max-concurrency 1 --num-warmups 0 --random-input-len $(full 274 4)
        --image-width $(full 1080 112) --image-height $(full 2400 140) --random-output-len $(full 16 2) --ignore-eos"
    # shellcheck disable=SC2086 # words of a list
    "$AUTOGLM" bench serve $turns --num-prompts 2 --seed 1 --quiet >/dev/null
    fetch metrics >"$WORK/before.txt"
    # shellcheck disable=SC2086
    measure serve $turns --num-prompts "$(full 8 1)" --save-result "$OUT/screens.json"
    picture_phases
    stop_server
}

# What the engine's steps were made of, since the server began.
step_metrics() {
    fetch metrics >"$WORK/metrics.txt"
    python3 - "$WORK/metrics.txt" "$1" <<'PY'
import re, sys
value = {name: float(number) for name, number in re.findall(r"^(\w+)\{[^}]*\} (\S+)$", open(sys.argv[1]).read(), re.M)}
take = lambda name: value[f"agl_{name}_total"]
steps, prompt_steps = take("steps"), take("prompt_steps")
print(f"steps after {sys.argv[2]}: {prompt_steps:.0f} with prompts, {take('prompt_step_seconds'):.3f} s, {take('prompt_rows'):.0f} rows of prompts; "
      f"{steps - prompt_steps:.0f} of decoding alone, {take('step_seconds') - take('prompt_step_seconds'):.3f} s; {take('decode_rows'):.0f} decode rows")
print(f"of a step, mean: the device waits {1e6 * take('schedule_seconds') / steps:.0f} us for the host, which works {1e6 * take('overlapped_seconds') / steps:.0f} us beside it")
PY
}

# Means over the requests with pictures since before.txt: the engine's own times.
picture_phases() {
    fetch metrics >"$WORK/metrics.txt"
    python3 - "$WORK/before.txt" "$WORK/metrics.txt" "$OUT/screens.json" <<'PY'
import json, re, sys
before, after = ({name: float(number) for name, number in re.findall(r"^(\w+)\{[^}]*\} (\S+)$", open(path).read(), re.M)} for path in sys.argv[1:3])
grown = lambda name: after[name] - before[name]
mean = lambda name: 1e3 * grown(f"{name}_seconds_sum") / max(grown(f"{name}_seconds_count"), 1)
result = json.load(open(sys.argv[3]))
result = result[0] if isinstance(result, list) else result
prepare, decode, resize, vision, ttft = *map(mean, ("agl_request_prepare", "agl_media_decode", "agl_media_resize", "agl_vision")), result["mean_ttft_ms"]
print(f"prompt {result['total_input_tokens'] / result['completed']:.0f} tokens: first token {ttft:.1f} ms = body to queue {prepare:.1f} (picture decoded {decode:.1f}, resized and digested "
      f"on the host {resize:.1f}) + vision with upload and resize on the device {vision:.1f} + HTTP, prefill and the rest {ttft - prepare - vision:.1f}")
PY
}

run_startup() {
    measure startup --device "$DEVICE" --model "$MODEL" --load-format dummy --num-iters "$(full 2 1)" --save-result "$OUT/startup.json"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>/dev/null || echo "nvidia-smi is not here"
for part in ${*:-check logits demo kernels latency load startup}; do
    note "$part"
    "run_$part"
done
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
