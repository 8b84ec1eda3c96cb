"""The page in a browser: no complaint on the console, and nothing wider than the screen, wide or narrow."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from amodal.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--disable-sync", "--disable-component-update", "--enable-logging=stderr", "--v=0"]  # fmt: skip
# The probe measures the page in a frame of the screen's width, since a window may not be as narrow as a phone.
PROBE = """<!doctype html><meta charset="utf-8">
<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>
f.onload = () => {{
  const page = f.contentDocument.documentElement;
  const wide = [...f.contentDocument.querySelectorAll("body *")].filter((e) => {{
    for (let p = e; p; p = p.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return false;
    return e.getBoundingClientRect().right > {width} + 1;
  }});
  document.title = `width ${{page.scrollWidth}}; figures ${{f.contentDocument.querySelectorAll("svg").length}}; ` +
    `beyond ${{wide.slice(0, 3).map((e) => e.tagName + "." + e.className).join(" ")}}`;
}};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_the_console_is_silent(make_subject, tmp_path: Path, width: int):
    hostile = ('<script>console.error("run")</script>', "</svg><img src=x onerror=console.error(1)>", "x" * 300)
    write_page(make_subject("multiclass", notes=hostile, cohort_name="<b>made</b>"), tmp_path / "page.html")
    (tmp_path / "probe.html").write_text(PROBE.format(width=width), encoding="utf-8")
    command = [str(CHROMIUM), *SWITCHES, f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files",
               "--virtual-time-budget=4000", "--dump-dom", f"file://{tmp_path / 'probe.html'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = re.search(r"<title>width (\d+); figures (\d+); beyond (.*?)</title>", done.stdout)
    assert said, done.stdout[-500:]
    assert "CONSOLE" not in done.stderr
    assert int(said[1]) <= width, said[3]
    assert int(said[2]) > 3
    assert said[3] == ""
