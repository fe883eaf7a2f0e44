# SPDX-License-Identifier: Apache-2.0
"""`autoglm bench platform`, `bench report` and `plan`, from a measurement of a tiny model to the page."""
import csv
import html.parser
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from support import BINARY, ROOT  # noqa: E402

TIME_KEYS = {"mean", "std", "median", "p99", "count"}


def run(*words, expect=0, **options):
    done = subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=120, cwd=ROOT, **options)
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    subprocess.run([sys.executable, ROOT / "tests" / "support" / "make_tiny_checkpoint.py", folder], check=True,
                   stdout=subprocess.DEVNULL)
    return folder


# So many that a reader who comes late on a busy machine does not find all of an answer at once.
OUTPUT_TOKENS = 64


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """Result file of two formats and two batch sizes."""
    path = tmp_path_factory.mktemp("results") / "tiny.json"
    run("bench", "platform", "--model", tiny, "--input-len", 24, "--output-len", OUTPUT_TOKENS, "--batches", 1, 3,
        "--num-iters", 2, "--formats", "bf16", "f32", "--image-width", 112, "--image-height", 112, "--platform", "here <&> now",
        "--save-result", path, "--quiet", "--log-level", "error")
    return path


@pytest.mark.parametrize("kind", ["serve", "latency", "throughput", "startup", "kernels", "platform", "report"])
def test_help_names_the_kind(kind):
    listed = run("bench", "--help").stdout
    title, summary = run("bench", kind, "--help").stdout.splitlines()[:2]
    assert title.startswith(f"autoglm bench {kind} "), title
    assert kind == "report" or f"autoglm bench {kind}".ljust(26) + summary.strip() in listed


def check_floor(achieved):
    """Noise lets a share of a measured limit pass 1 a little; rows that stay in caches pass it by far."""
    assert 0 < achieved < 1.5, achieved


@pytest.mark.parametrize("kind", ["latency", "throughput"])
def test_floors_of_an_engine(tiny, kind):
    words = ("bench", kind, "--model", tiny, "--input-len", 64, "--output-len", OUTPUT_TOKENS, "--batch-size", 2,
             "--num-iters", 1, "--log-level", "error")
    got = json.loads(run(*words, "--json").stdout)
    assert got["rates"]["read_bytes_per_s"] > 1e8 and got["rates"]["flops"] > 1e8
    for key in ("ttft", "itl") if got["itl_ms"]["mean"] > 0 else ("ttft",):     # a tiny model's tokens may arrive together
        assert got["achieved"][key] == pytest.approx(got["floor"][f"{key}_ms"] / got[f"{key}_ms"]["mean"], rel=0.02, abs=2e-4)
        check_floor(got["achieved"][key])
    assert "floor at" in run(*words).stdout


def test_kernels(tiny, tmp_path):
    path = tmp_path / "kernels.json"
    shown = run("bench", "kernels", "--model", tiny, "--num-iters", 1, "--save-result", path, "--log-level", "error").stdout
    got = json.loads(path.read_text())
    names = {k["name"] for k in got["kernels"]}
    assert {"qkv", "down", "lm_head", "decode attention", "prefill attention", "vision attention"} <= names
    for k in got["kernels"]:
        floor = max(k["bytes"] / got["rates"]["read_bytes_per_s"], k["flops"] / got["rates"]["flops"])
        assert k["floor_s"] == pytest.approx(floor, rel=1e-2, abs=2e-9) and k["seconds"] > 0
        assert k["achieved"] == pytest.approx(k["floor_s"] / k["seconds"], rel=2e-2, abs=1e-3)
        assert k["name"] in shown
        if k["bound"] == "units":
            check_floor(k["achieved"])


def test_result_file(measured):
    got = json.loads(measured.read_text())
    assert got["schema"] == "autoglm-platform-1" and got["complete"] is True
    assert got["platform"] == "here <&> now"
    assert got["machine"]["cpu"] and got["machine"]["memory_bytes"] > 0
    assert got["device"]["kind"] == "cpu" and got["device"]["count"] == 1
    assert got["rates"]["read_bytes_per_s"] > 1e8 and got["rates"]["flops"] > 1e8
    assert got["protocol"] == {"input_tokens": 24, "output_tokens": OUTPUT_TOKENS, "image_width": 112,
                               "image_height": 112, "image_tokens": 16}
    assert [run["format"] for run in got["runs"]] == ["bf16", "f32"]
    for one in got["runs"]:
        assert [point["batch"] for point in one["points"]] == [1, 3]
        assert one["batch_max"] >= 3 and one["kv_tokens"] >= 3 * (24 + OUTPUT_TOKENS) and one["image_ttft_ms"] > 0
        for point in one["points"]:
            assert set(point["ttft_ms"]) == TIME_KEYS == set(point["itl_ms"])
            assert point["iterations"] == 2
            assert point["ttft_ms"]["count"] == 2 * point["batch"]
            # A reader that comes late finds the first tokens together: fewer gaps, never more.
            assert 0 < point["itl_ms"]["count"] <= 2 * point["batch"] * (OUTPUT_TOKENS - 1)
            assert point["floor"]["ttft_ms"] > 0 and point["floor"]["itl_ms"] > 0
        assert one["max_throughput"] == max(point["output_throughput"] for point in one["points"])


def test_interrupted_runs_keep_what_was_measured(tiny, tmp_path):
    path = tmp_path / "some.json"
    process = subprocess.Popen([BINARY, "bench", "platform", "--model", tiny, "--input-len", "16", "--output-len", "3900",
                                "--batches", "1", "2", "--num-iters", "10000", "--formats", "bf16", "--quiet",
                                "--log-level", "error", "--num-iters-warmup", "0", "--save-result", path], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True)
    # Nothing is written before the first batch size has ended, and it never does by itself.
    time.sleep(6)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    if process.returncode != 0:             # a slow machine was still loading or in its first answer
        assert "nothing was measured" in errors
        pytest.skip("too slow a machine to have measured anything in 6 s")
    got = json.loads(path.read_text())
    assert got["complete"] is False
    assert [point["batch"] for point in got["runs"][0]["points"]] == [1]
    assert 1 <= got["runs"][0]["points"][0]["iterations"] < 10000


class Page(html.parser.HTMLParser):
    """Tags that are open, cells of tables, and whatever would be fetched."""

    VOID = {"meta", "link", "br", "circle", "rect", "path", "line", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.tables, self.fetched, self.text = [], 0, [], ""

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.fetched += [attrs[key] for key in ("src", "href") if key in attrs and not attrs[key].startswith(("data:", "#"))]
        self.tables += tag == "table"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(measured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run("bench", "report", measured, "--output-dir", folder)
    return folder


def test_page_is_well_formed_and_fetches_nothing(report):
    page, text = Page(), (report / "report.html").read_text()
    page.feed(text)
    assert page.open == [] and page.fetched == [] and page.tables == 5
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r"</?script>", "", text)
    assert "here <&> now" in page.text and "here <&" not in text
    assert "nan" not in page.text.lower().replace("nano", "") and "inf" not in re.findall(r"\b\w+\b", page.text)
    for words in ("Support matrix", "支持矩阵", "Platform configurations", "平台配置", "Performance comparison", "性能对比",
                  "Recommended scenario", "推荐场景", "reported by the article", "文章报告"):
        assert words in page.text, words


def test_page_has_no_console_errors_and_is_as_wide_as_a_phone(report):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium")
    page = report / "report.html"
    probe = report / "probe.html"       # a narrow frame tells whether the page scrolls sideways
    probe.write_text(page.read_text().replace("</body>", "<script>document.title="
                     "document.documentElement.scrollWidth+'/'+document.documentElement.clientWidth</script></body>"))
    done = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                           "--window-size=500,900", "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=60,
                          env=os.environ | {"HOME": str(report)})
    assert "CONSOLE" not in done.stderr, done.stderr
    wide, window = map(int, re.search(r"<title>(\d+)/(\d+)</title>", done.stdout).groups())
    assert wide <= window


def test_markdown_and_csv_have_the_same_rows(report, measured):
    rows = list(csv.reader((report / "report.csv").read_text().splitlines()))
    support = rows[2:rows.index([], 2)]
    assert support[0][0].startswith("here <&> now") and support[0][1] == "measured"
    assert support[1][:2] == ["2 × RTX 4090", "reported by the article"]
    markdown = (report / "report.md").read_text()
    for row in support:
        assert f"| {row[0]} | {row[1]} |" in markdown
    assert "| 2 × RTX 4090 | FP16 | reported by the article | 320 | 18.0 | 142 | 8 |" in markdown
    assert "444 tokens/s; 142 are reported" in markdown
    assert "compares 4 platforms. Of 3 of them" in markdown
    # What the article does not say is marked: the device's rates, the screenshot.
    assert "| times: the article; device: datasheet |" in markdown
    step = next(line for line in markdown.split("Recommended scenario")[1].splitlines() if "reported by the article" in line)
    assert re.fullmatch(r"[\d.]+ \*", step.split("|")[4].strip()), step


def test_one_value_has_no_deviation(measured, tmp_path):
    got = json.loads(measured.read_text())
    time = got["runs"][0]["points"][0]["ttft_ms"]
    time.update(mean=15254, std=0, count=1)
    (tmp_path / "one.json").write_text(json.dumps(got))
    markdown = run("bench", "report", tmp_path / "one.json").stdout
    assert "| 15254 |" in markdown and "15254 ±" not in markdown
    chinese = run("bench", "report", measured, "--language", "zh").stdout
    assert "文章报告" in chinese and "predicted" not in chinese


BROKEN_RUN = '{"schema":"autoglm-platform-1","platform":"x","device":{"kind":"cpu"},"runs":[{"format":"bf16",%s}]}'


@pytest.mark.parametrize("text, word", [
    ("{", "broken.json"), ("{}", "schema"), ('{"schema":"other"}', "autoglm-platform-1"), ("[3]", "object"),
    (BROKEN_RUN % '"points":[{"batch":0}]', "batch"), (BROKEN_RUN % '"max_throughput":"fast"', "max_throughput"),
    (BROKEN_RUN % ('"points":[' + ",".join(['{"batch":1}'] * 25) + "]"), "at most 24"),
])
def test_broken_result_files_are_refused(tmp_path, text, word):
    path = tmp_path / "broken.json"
    path.write_text(text)
    done = subprocess.run([BINARY, "bench", "report", path], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode in (1, 2) and word in done.stderr


def test_plan_reads_shapes_without_weights(measured, tiny):
    rows = json.loads(run("plan", "--hardware", "RTX 4090,2x4090,H200", "--json").stdout)
    assert [(row["hardware"], row["count"], row["format"]) for row in rows[:4]] == [
        ("RTX 4090", 1, "bf16"), ("RTX 4090", 1, "fp8"), ("RTX 4090", 1, "int4"), ("RTX 4090", 2, "bf16")]
    assert all(row["parameters"] == 10292777472 for row in rows)
    assert rows[0]["kv_bytes_per_token"] == 40960 and rows[0]["image_tokens"] == 3354
    small = json.loads(run("plan", "--memory", 16, "--bandwidth", 500, "--flops", 60, "--dtype", "bf16", "--json").stdout)
    assert small[0]["fit"] == "no" and small[0]["help"].startswith("--quantization") and small[0]["itl_ms_batch_1"] is None
    text = run("plan", tiny, "--hardware", "EPYC 9654", "--fit", measured).stdout
    assert "fitted to 2 measured runs" in text and "off by" in text


def test_plan_knows_the_measured_h200():
    """Without --fit: efficiencies of the files under docs/platforms/results, and how far off it is there."""
    measured = json.loads((ROOT / "docs" / "platforms" / "results" / "h200.json").read_text())
    text = run("plan", "--hardware", "H200", "--dtype", "bf16").stdout
    assert "fitted to" in text.split("efficiency:")[1].splitlines()[0]
    compared = text.split("off by", 1)
    assert len(compared) == 2 and "NVIDIA H200" in text and "EPYC" not in text
    assert "off by" not in run("plan", "--hardware", "L40S", "--dtype", "bf16").stdout
    markdown = run("bench", "report", ROOT / "docs" / "platforms" / "results" / "h200.json").stdout
    beside = markdown.split("## Predicted beside measured")[1].split("##")[0]
    assert all(f"| NVIDIA H200 | BF16 | {number} |" in beside for number in ("weights, GB", "token gap, ms", "best tokens/s"))
    row, = json.loads(run("plan", "--hardware", "H200", "--memory", measured["device"]["memory_bytes"] / 1e9, "--dtype", "bf16",
                          "--json").stdout)
    done, = (r for r in measured["runs"] if r["format"] == "bf16")
    assert row["weight_bytes"] == done["weight_bytes"]
    assert row["batch_max"]["768"] == pytest.approx(done["batch_max"], rel=0.02)
    single = next(p for p in done["points"] if p["batch"] == 1)
    assert row["itl_ms_batch_1"] == pytest.approx(single["itl_ms"]["median"], rel=0.1)
    assert row["efficiency"]["bandwidth"] == pytest.approx(single["floor"]["itl_ms"] / single["itl_ms"]["median"], rel=1e-3)


@pytest.mark.parametrize("flags", [["--hardware", "Cray-1"], ["--dtype", "int3"], ["--memory", "4"], ["a", "b"]])
def test_wrong_plans_make_status_2(flags):
    assert "autoglm plan:" in run("plan", *flags, expect=2).stderr
