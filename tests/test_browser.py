"""The page as people see it: in Debian's Chromium, at the width of a phone, a tablet and a desktop."""

import html
import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from recorded import record

from emobench.reports import derivation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

WIDTHS = (390, 768, 1400)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--allow-file-access-from-files", "--virtual-time-budget=9000"),
)
# A page forbids scripts of its own, so another one frames and measures it.
MEASURE = """<div id="found"></div><script>
const found = {};
for (const width of %s) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  frame.src = "report.html";
  frame.onload = () => {
    const page = frame.contentDocument, covered = [], cut = [];
    page.querySelectorAll("details").forEach(item => item.open = true);
    for (const svg of page.querySelectorAll("svg")) {
      const box = svg.getBoundingClientRect();
      const texts = [...svg.querySelectorAll("text")].map(item => [item.textContent, item.getBoundingClientRect()]);
      texts.forEach(([text, one], number) => {
        if (one.left < box.left - 1 || one.right > box.right + 1 || one.bottom > box.bottom + 1) cut.push(text);
        for (const [other, two] of texts.slice(number + 1))
          if (Math.min(one.right, two.right) - Math.max(one.left, two.left) > 1 &&
              Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top) > 3) covered.push([text, other]);
      });
    }
    const board = page.querySelector(".ranked .wide"), all = page.documentElement;
    const scroll = all.scrollWidth - all.clientWidth, n_figures = page.querySelectorAll("svg").length;
    found[width] = {scroll, covered, cut, n_figures, board: board.scrollWidth - board.clientWidth};
    document.getElementById("found").textContent = JSON.stringify(found);
  };
  document.body.append(frame);
}
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What Chromium finds at each width, on a page with everything that a run of nine entries can have."""
    folder = tmp_path_factory.mktemp("page")
    names = ["svm", "svm-tuned", "mlp", "mlp-tuned", "xgboost", "xgboost-tuned", "cnn", "cnn-tuned", "dummy"]
    tables = record(
        right={name: 0.6 - 0.01 * number for number, name in enumerate(names)},
        protocols=("group-kfold", "random-kfold"),
        classes=("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
        n_speakers=24,
        repeats=2,
    )
    where = {"corpus": "tiny", "features": "mfcc40", "stage": "wav_to_label", "batch": 1, "p95_ms": 2.9, "p99_ms": 3.1}
    sizes = {"throughput_per_s": 400.0, "model_bytes": 300_000, "peak_memory_bytes": 10**8, "is_noisy": False}
    latency = [
        {**where, **sizes, "entry": name, "p50_ms": 2.4 + 0.03 * number, "noise_p50_ms": 0.1}
        for number, name in enumerate(names)
    ]
    page = derivation.derive(*tables, latency=pd.DataFrame(latency))["report.html"]
    (folder / "report.html").write_bytes(page)
    (folder / "measure.html").write_text(MEASURE % list(WIDTHS))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'user'}", "--dump-dom", (folder / "measure.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return {
        int(width): content
        for width, content in json.loads(
            html.unescape(re.search(r'<div id="found">(.*?)</div>', done.stdout, re.DOTALL)[1])
        ).items()
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_page_does_not_scroll_sideways(seen, width):
    assert seen[width]["scroll"] == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_a_figure_is_cut_or_covered(seen, width):
    assert seen[width]["n_figures"] > 5
    assert (seen[width]["cut"], seen[width]["covered"]) == ([], [])


def test_leaderboard_fits_its_column_on_a_tablet_and_a_desktop(seen):
    assert seen[768]["board"] <= 0
    assert seen[1400]["board"] <= 0
