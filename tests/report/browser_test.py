"""The pages as a reader sees them, in a real browser without a window and without a network."""

import json
import os
import re
import shutil
import subprocess

import pytest

from tests.report.conftest import HOSTILE, make_report, make_sweep
from tfapprox.report.page import render_page
from tfapprox.report.sweep_page import render_sweep_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

# Runs in the page after its own script, and leaves what it saw where --dump-dom shows it.
_PROBE = """
<script>
const order = table => [...table.tBodies[0].rows].map(row => row.cells[0].textContent.trim());
const click = (table, i) => table.tHead.rows[0].cells[i].querySelector("button").click();
const table = document.querySelector("table.sites"), seen = {before: order(table)};
click(table, 6); seen.byParameters = order(table);
click(table, 6); seen.ascending = order(table);
click(table, 0); click(table, 0); seen.byName = order(table);
const filter = document.querySelector(".filter");
filter.value = "no candidate"; filter.dispatchEvent(new Event("input"));
seen.shown = document.querySelector(".shown").textContent;
seen.visible = [...table.tBodies[0].rows].filter(row => row.offsetParent || !row.hidden).length;
const budgets = document.querySelector("table.sortable:not(.sites)");
if (budgets) { click(budgets, 1); seen.budgets = order(budgets); }
location.hash = "#keep_0.5"; window.dispatchEvent(new Event("hashchange"));
seen.open = [...document.querySelectorAll("details.one[open]")].map(section => section.id);
seen.requests = performance.getEntriesByType("resource").map(entry => entry.name);
seen.injected = document.querySelectorAll("img").length;
seen.width = document.documentElement.scrollWidth;
const out = document.createElement("pre");
out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
</script>
"""


# What markup that got past the escaping would do first.
_INTRUDER = """
<script>
const refused = [];
document.addEventListener("securitypolicyviolation", event => {
  refused.push(event.effectiveDirective);
  document.title = refused.sort().join(" ");
});
const image = document.createElement("img");
image.src = "http://127.0.0.1:9/secret.png";
document.body.append(image);
fetch("http://127.0.0.1:9/secret").catch(() => 0);
</script>
"""


def browse(folder, page, *flags, scheme="light", quiet=True):
    """Opens a page from a file; returns standard output, and fails on any console message."""
    assert BROWSER is not None
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--window-size=1200,1600", "--virtual-time-budget=2000", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            *flags, file.as_uri(),
        ],
        capture_output=True, text=True, timeout=600, check=True,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not (quiet and messages)
    return done.stdout


def look(folder, page, scheme):
    """Returns the picture of a page, [height, width, 3] in [0, 1]."""
    image = pytest.importorskip("matplotlib.image")
    browse(folder, page, f"--screenshot={folder / 'page.png'}", scheme=scheme)
    return image.imread(folder / "page.png")[:, :, :3]


def probe(folder, page):
    dom = browse(folder, page.replace("</body>", _PROBE + "</body>"), "--dump-dom")
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the probe did not run to its end"
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["report", "sweep"])
def test_pages_follow_the_reader_s_colours(tmp_path, kind, scheme):
    page = render_page(make_report(6)) if kind == "report" else render_sweep_page(make_sweep())
    picture = look(tmp_path, page, scheme)
    assert picture.shape[:2] == (1600, 1200)
    background = picture[2, 2].mean()
    assert background > 0.9 if scheme == "light" else background < 0.15
    # Text, and both colours of the bars or points, are there.
    contrast = abs(picture.mean(axis=2) - background)
    assert (contrast > 0.5).mean() > 0.005
    blue = picture[:, :, 2] - picture[:, :, 0]
    assert (blue > 0.3).mean() > 0.0003


def test_tables_sort_and_filter(tmp_path):
    report = make_report(6)
    seen = probe(tmp_path, render_page(report))
    names = [verdict.site for verdict in report.plan.verdicts]
    assert seen["before"] == names
    by_params = sorted(report.plan.verdicts, key=lambda verdict: -verdict.before.params)
    assert seen["byParameters"] == [verdict.site for verdict in by_params]
    assert seen["ascending"] == seen["byParameters"][::-1]
    assert seen["byName"][1:] == sorted(names[1:])
    assert (seen["shown"], seen["visible"]) == ("2 of 6", 2)
    assert seen["requests"] == [] and seen["injected"] == 0


def test_a_sweep_leads_to_each_budget(tmp_path):
    seen = probe(tmp_path, render_sweep_page(make_sweep()))
    assert seen["budgets"] == ["original", "keep 0.7", "keep 0.5", "keep 0.3"]
    assert seen["open"] == ["keep_0.5"]
    assert seen["requests"] == [] and seen["injected"] == 0
    assert HOSTILE in seen["before"]


def test_a_narrow_window_does_not_make_the_page_wider(tmp_path):
    page = render_sweep_page(make_sweep()).replace("</body>", _PROBE + "</body>")
    dom = browse(tmp_path, page, "--dump-dom", "--window-size=600,900")
    assert json.loads(re.search(r'"width":(\d+)', dom)[1]) <= 600


def test_the_page_s_policy_lets_nothing_be_loaded(tmp_path):
    page = render_page(make_report(6)).replace("</body>", _INTRUDER + "</body>")
    dom = browse(tmp_path, page, "--dump-dom", quiet=False)
    assert "<title>connect-src img-src</title>" in dom
