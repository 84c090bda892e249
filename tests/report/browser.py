"""Pages in a real browser: as wide as a phone, in the dark, on paper."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
# The policy of the pages runs no script that is not theirs; ours is one.
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"\s[^>]*>')
TELL = 'const tell = (found) => parent.postMessage(JSON.stringify(found), "*");'
# A window without a screen is never as narrow as a phone; a frame has the width that it is given.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><pre id="told"></pre>
<script>onmessage = told => document.getElementById("told").textContent = told.data</script>
<iframe src="copy.html" style="width:{width}px;height:900px;border:0"></iframe>
"""
PRINTED = {"@media print": "@media all", "@media screen and": "@media (width < 0px) and"}  # as rules of a screen


def find_browser() -> str:
    """Its program; the test is skipped where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    return browser


def look(page: Path, folder: Path, script: str, width: int = 1280, dark: bool = False, paper: bool = False) -> Any:
    """What `script`, run once the page is laid out so wide, hands to `tell`; `folder` is for what the browser writes.

    `paper` lays the page out by its rules of print.
    """
    text = POLICY.sub("", page.read_text(encoding="utf-8"))
    for rule, instead in PRINTED.items() if paper else ():
        text = text.replace(rule, instead)
    run = f'<script>{TELL}\naddEventListener("load", () => {{ {script} }});</script></body>'
    before, _, after = text.rpartition("</body>")
    (folder / "copy.html").write_text(before + run + after, encoding="utf-8", errors="replace")
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    look = ["--window-size=1400,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    words = [find_browser(), *FLAGS, *look, f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=20000"]
    address = (folder / "frame.html").as_uri()
    done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, f"no page came back: {done.stderr[-500:]}"
    assert told[1], f"the script did not answer: {done.stderr[-500:]}"
    return json.loads(html.unescape(told[1]))
