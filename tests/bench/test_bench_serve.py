# SPDX-License-Identifier: Apache-2.0
"""`autoglm bench serve` against the real server: the keys of `vllm bench serve`, counts, exit
statuses, and greedy answers that do not change. Times are checked for order only."""
import json
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from support import BINARY, ROOT, Server  # noqa: E402

NUMBER, TEXT = (int, float), str
METRICS = ["ttft", "tpot", "itl", "e2el"]

# What vLLM's benchmark writes, with its types; PERCENTILES of --metric-percentiles 90,95,99.
SCHEMA = {
    "date": TEXT, "endpoint_type": TEXT, "backend": TEXT, "label": (TEXT, type(None)), "model_id": TEXT,
    "tokenizer_id": TEXT, "num_prompts": int, "request_rate": (int, float, TEXT), "burstiness": NUMBER,
    "max_concurrency": (int, type(None)), "duration": NUMBER, "completed": int, "failed": int,
    "total_input_tokens": int, "total_output_tokens": int, "request_throughput": NUMBER,
    "request_goodput": NUMBER, "output_throughput": NUMBER, "total_token_throughput": NUMBER,
    "max_output_tokens_per_s": NUMBER, "max_concurrent_requests": int,
} | {f"{kind}_{metric}_ms": NUMBER for metric in METRICS for kind in ("mean", "median", "std", "p90", "p95", "p99")}
DETAILED = {"input_lens": int, "output_lens": int, "ttfts": NUMBER, "itls": list, "start_times": NUMBER,
            "generated_texts": TEXT, "errors": TEXT}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    subprocess.run([sys.executable, ROOT / "tests" / "support" / "make_tiny_checkpoint.py", folder], check=True,
                   stdout=subprocess.DEVNULL)
    with Server("--model", folder, "--served-model-name", "autoglm-phone-9b", "--threads", "2",
                "--kv-cache-memory-bytes", "64M") as running:
        yield running


def bench(server, *flags, expect=0):
    """The JSON of one run; the client shares its cores with the server here, so lag is allowed."""
    done = subprocess.run([BINARY, "bench", "serve", "--base-url", server.root, "--json", "--quiet", "--allow-lag",
                           *map(str, flags)], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def check_schema(result):
    for key, kind in SCHEMA.items():
        assert key in result, key
        assert isinstance(result[key], kind) and not isinstance(result[key], bool), (key, result[key])
    for metric in METRICS:
        assert 0 <= result[f"median_{metric}_ms"] <= result[f"p99_{metric}_ms"], metric
    assert result["mean_ttft_ms"] <= result["mean_e2el_ms"]
    assert result["duration"] > 0


def test_random_completions_have_exact_lengths(server):
    got = bench(server, "--num-prompts", 6, "--input-len", 32, "--output-len", 8, "--ignore-eos",
                "--max-concurrency", 3, "--save-detailed")
    check_schema(got)
    assert (got["completed"], got["failed"], got["num_prompts"]) == (6, 0, 6)
    assert got["total_input_tokens"] == 6 * 32
    assert got["total_output_tokens"] == 6 * 8
    assert got["max_concurrency"] == 3 and got["max_concurrent_requests"] <= 3
    assert got["backend"] == "openai" and got["request_rate"] == "inf"
    for key, kind in DETAILED.items():
        assert len(got[key]) == 6 and all(isinstance(item, kind) for item in got[key]), key
    assert got["input_lens"] == [32] * 6 and got["output_lens"] == [8] * 6
    assert got["errors"] == [""] * 6


def test_random_chat(server):
    got = bench(server, "--endpoint", "chat", "--num-prompts", 4, "--input-len", 10, "--output-len", 6, "--ignore-eos")
    check_schema(got)
    assert got["completed"] == 4 and got["total_output_tokens"] == 24
    assert got["backend"] == "openai-chat"


def test_screens(server):
    got = bench(server, "--dataset-name", "screens", "--num-prompts", 3, "--image-width", 112, "--image-height", 224,
                "--input-len", 4, "--output-len", 4, "--ignore-eos")
    check_schema(got)
    assert got["completed"] == 3
    assert got["total_input_tokens"] > 3 * 32       # 112 x 224 is 4 x 8 tokens


def test_agent_sessions_grow_and_drop_their_pictures(server):
    got = bench(server, "--dataset-name", "agent", "--num-prompts", 2, "--turns", 3, "--image-width", 112,
                "--image-height", 112, "--input-len", 20, "--output-len", 5, "--ignore-eos", "--save-detailed")
    check_schema(got)
    assert got["completed"] == got["num_prompts"] == 6
    first, second, third = got["input_lens"][:3]
    assert first < second < third
    # What is new in a step: the answer, a task line and the message around them; no second picture.
    assert third - second < 200


def test_jsonl(server, tmp_path):
    lines = [{"messages": [{"role": "user", "content": f"number {i}"}], "max_tokens": 3 + i} for i in range(3)]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    got = bench(server, "--dataset-name", "jsonl", "--dataset-path", path, "--ignore-eos", "--save-detailed")
    check_schema(got)
    assert got["output_lens"] == [3, 4, 5]


def test_open_loop_and_goodput(server):
    got = bench(server, "--num-prompts", 5, "--input-len", 8, "--output-len", 4, "--ignore-eos", "--request-rate", 50,
                "--goodput", "ttft:60000", "e2el:60000")
    check_schema(got)
    assert got["request_rate"] == 50
    assert abs(got["request_goodput"] - got["request_throughput"]) < 1e-3
    none = bench(server, "--num-prompts", 3, "--input-len", 8, "--output-len", 4, "--ignore-eos", "--goodput", "e2el:0.001")
    assert none["request_goodput"] == 0


def test_greedy_answers_are_the_same_in_every_run(server):
    flags = ["--num-prompts", 4, "--input-len", 24, "--output-len", 12, "--ignore-eos"]
    one = bench(server, *flags, "--max-concurrency", 1)
    many = bench(server, *flags, "--max-concurrency", 4, "--repetitions", 2)
    other = bench(server, *flags, "--seed", 1)
    assert one["answers_sha256"] == many["answers_sha256"] != other["answers_sha256"]
    assert many["repetitions"] == 2


def test_against_measures_both(server):
    both = bench(server, "--against", server.base, "--num-prompts", 2, "--input-len", 8, "--output-len", 4, "--ignore-eos")
    assert len(both) == 2
    for got in both:
        check_schema(got)
    assert both[0]["answers_sha256"] == both[1]["answers_sha256"]


def test_text_report_has_the_usual_lines(server):
    done = subprocess.run([BINARY, "bench", "serve", "--base-url", server.root, "--quiet", "--allow-lag", "--num-prompts", "2",
                           "--input-len", "8", "--output-len", "4"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == " Serving Benchmark Result ".center(50, "=")
    for label in ("Successful requests:", "Benchmark duration (s):", "Request throughput (req/s):",
                  "Output token throughput (tok/s):", "Total token throughput (tok/s):", "Mean ttft (ms):"):
        assert any(line.startswith(label) for line in lines), label


def test_failed_requests_make_status_1(server):
    got = bench(server, "--num-prompts", 2, "--input-len", 100000, "--output-len", 4, "--num-warmups", 0, expect=1)
    assert got["completed"] == 0 and got["failed"] == 2


@pytest.mark.parametrize("flags", [["--num-prompts", "0"], ["--dataset-name", "nothing"], ["--goodput", "ttft"],
                                   ["--dataset-name", "jsonl"], ["--token-first", "9", "--token-last", "3"], ["extra"]])
def test_wrong_flags_make_status_2(server, flags):
    assert "autoglm bench serve:" in bench(server, *flags, expect=2)


def test_a_server_that_is_not_there_makes_status_1():
    done = subprocess.run([BINARY, "bench", "serve", "--base-url", "http://127.0.0.1:9", "--num-prompts", "1", "--quiet"],
                          capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1 and "127.0.0.1:9" in done.stderr
