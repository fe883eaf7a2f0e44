#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The whole test suite on a fresh machine: packages, Python environment, build, then
#
#   layers   include directions            asan    unit tests under ASan and UBSan
#   make     unit, kernel, golden tests    fuzz    every fuzz target for a few seconds
#   http     the real binary through the clients people use
#
#   FUZZ_SECONDS=10   of each fuzz target        STEPS="layers make asan fuzz http"   which steps
#
# The last line says how many tests passed and failed; the exit status follows it.
set -u
cd "$(dirname -- "$0")" || exit 1

FUZZ_SECONDS=${FUZZ_SECONDS:-10}
STEPS=${STEPS:-layers make asan fuzz http}
JOBS=$(nproc)
LOGS=build/test-logs
PYTHON=tests/.venv/bin/python
passed=0
failed=0
skips=

note() { printf '\n== %s\n' "$*"; }
skip() { skips="$skips
  $1: $2"; echo "skipped: $1: $2"; }
count() { passed=$((passed + $1)); failed=$((failed + $2)); }
wants() { case " $STEPS " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# Sum of the numbers that the pattern catches in a log.
total() { sed -n "s/$1/\\1/p" "$2" | awk '{ sum += $1 } END { print sum + 0 }'; }

# count_cmocka LOG STATUS: what cmocka printed; a program that died without a failed test counts as one.
count_cmocka() {
    good=$(total '^\[  PASSED  \] \([0-9]*\) test(s)\.$' "$1")
    bad=$(total '^ *\([0-9]*\) FAILED TEST(S)$' "$1")
    [ "$2" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    count "$good" "$bad"
}

prepare() {
    sh deploy/install_packages.sh packages.txt packages-test.txt || exit 1
    mkdir -p "$LOGS"
    if wants http && ! cmp -s tests/requirements.txt tests/.venv/installed.txt; then
        note "Python environment in tests/.venv"
        python3 -m venv tests/.venv && $PYTHON -m pip install -q --disable-pip-version-check -r tests/requirements.txt &&
            cp tests/requirements.txt tests/.venv/installed.txt
    fi
    note build
    make -j "$JOBS" all test-binaries || { echo "0 passed, 1 failed (the build)"; exit 1; }
}

run_layers() {
    note "include directions"
    if python3 tests/check_layers.py; then count 1 0; else count 0 1; fi
}

run_make() {
    note "unit, kernel and golden tests"
    timeout 300 make test >"$LOGS/make.log" 2>&1
    status=$?
    [ "$status" -eq 0 ] || grep -E '^\[  FAILED|^\[  ERROR|^FAILED|error:|Error' "$LOGS/make.log" | head -40
    grep -iE '^skip' "$LOGS/make.log"
    count_cmocka "$LOGS/make.log" "$status"
}

# The sanitizers slow everything down by a factor of several: the unit tests only, each for a bounded time.
run_asan() {
    note "unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
    set -- BUILD=build/asan CUDA=0 OPT="-O1 -g" SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    programs=$(for source in tests/unit/*/test_*.c; do echo "build/asan/${source%.c}"; done)
    # shellcheck disable=SC2086 # words of a list
    if ! make -j "$JOBS" "$@" $programs >"$LOGS/asan-build.log" 2>&1; then
        tail -20 "$LOGS/asan-build.log"
        count 0 1
        return
    fi
    for program in $programs; do
        name=$(basename "$program")
        timeout 120 "$program" >"$LOGS/asan-$name.log" 2>&1
        status=$?
        [ "$status" -eq 0 ] || { echo "FAILED ($status): $program"; grep -E 'ERROR|runtime error|FAILED' "$LOGS/asan-$name.log" | head -10; }
        count_cmocka "$LOGS/asan-$name.log" "$status"
    done
}

run_fuzz() {
    note "fuzz targets, $FUZZ_SECONDS s each"
    if ! command -v clang >/dev/null 2>&1; then
        skip fuzz "clang is not installed"
        return
    fi
    if ! make -j "$JOBS" fuzz >"$LOGS/fuzz-build.log" 2>&1; then
        tail -20 "$LOGS/fuzz-build.log"
        count 0 1
        return
    fi
    for program in build/fuzzing/fuzz/fuzz_*; do
        [ -x "$program" ] || continue
        name=$(basename "$program")
        # What is found lands in the build folder; the fixtures only seed it.
        work=build/fuzzing/corpus/$name
        mkdir -p "$work"
        case $name in
        fuzz_image) seeds=tests/fixtures/media ;;
        fuzz_tokenizer) seeds=tests/fixtures/tokenizer/fuzz ;;
        *) seeds= ;;
        esac
        # shellcheck disable=SC2086 # no word when there are no seeds
        if timeout $((FUZZ_SECONDS + 60)) "$program" -max_total_time="$FUZZ_SECONDS" -rss_limit_mb=3000 -timeout=20 \
            -artifact_prefix="$work-" "$work" $seeds >"$LOGS/$name.log" 2>&1; then
            count 1 0
            echo "$name: $(sed -n 's/^Done \([0-9]*\) runs.*/\1 runs/p' "$LOGS/$name.log")"
        else
            count 0 1
            echo "FAILED: $name"
            grep -E 'ERROR|runtime error|SUMMARY|Test unit' "$LOGS/$name.log" | head -10
        fi
    done
}

run_http() {
    note "the server through real clients"
    if ! $PYTHON -c 'import openai, langchain_openai, llama_index.llms.openai_like' 2>"$LOGS/python.log"; then
        tail -1 "$LOGS/python.log"
        echo "FAILED: the Python environment is not complete"
        count 0 1
        return
    fi
    timeout 420 $PYTHON -m pytest tests -q -rs --timeout=120 -p no:cacheprovider >"$LOGS/pytest.log" 2>&1
    status=$?
    tail -60 "$LOGS/pytest.log"
    last=$(grep -E '^(=+ )?[0-9]+ (passed|failed|error|skipped)' "$LOGS/pytest.log" | tail -1)
    good=$(echo "$last" | sed -n 's/.*[^0-9]*\b\([0-9][0-9]*\) passed.*/\1/p')
    bad=$(echo "$last" | sed -n 's/.*\b\([0-9][0-9]*\) failed.*/\1/p')
    errors=$(echo "$last" | sed -n 's/.*\b\([0-9][0-9]*\) error.*/\1/p')
    left_out=$(echo "$last" | sed -n 's/.*\b\([0-9][0-9]*\) skipped.*/\1/p')
    bad=$((${bad:-0} + ${errors:-0}))
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    count "${good:-0}" "$bad"
    [ -z "$left_out" ] || skip http "$left_out tests; the lines with SKIPPED above say why"
}

prepare
for step in layers make asan fuzz http; do
    if wants "$step"; then "run_$step"; else skip "$step" "not in STEPS"; fi
done
[ -z "$skips" ] || printf '\nskipped:%s\n' "$skips"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
