"""docs/ as the site of `make site`, built by mkdocs and searched in a browser: from a disk, with no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pages

pytest.importorskip("material", reason="mkdocs-material is not installed (extra: docs)")
pytest.importorskip("mkdocs_jupyter", reason="mkdocs-jupyter is not installed (extra: docs)")

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")
TYPE = """
addEventListener("load", () => setTimeout(() => {
  const box = document.getElementById("__search"), field = document.querySelector("[data-md-component=search-query]");
  box.checked = true;
  box.dispatchEvent(new Event("change", {bubbles: true}));
  field.focus();
  field.value = "manifest";
  for (const name of ["focus", "keyup", "input"]) field.dispatchEvent(new Event(name, {bubbles: true}));
}, 500));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a link between pages that leads nowhere, also to a heading, stops the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_asks_nobody(site: Path) -> None:
    for page in pages.pages():
        if page.parent == pages.ROOT / "docs":
            assert (site / page.with_suffix(".html").name.replace("README", "index")).is_file(), page
    assert "Results" in (site / "results/index.html").read_text(encoding="utf-8")  # the page that `reproduce` wrote
    for page in set(site.rglob("*.html")) - {site / "404.html"}:  # a server's, with addresses from its root
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\ssrc=\"?([^\"\s>]+)", html)
        loaded += re.findall(r"<link\b[^>]*rel=\"?stylesheet\"?[^>]*href=\"?([^\"\s>]+)", html)
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
        for address in loaded:
            assert address.startswith("data:") or (page.parent / address.partition("?")[0]).exists(), (page, address)


def test_the_search_answers_from_a_disk_without_a_network(site: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    copy = shutil.copytree(site, tmp_path / "site")
    html = (copy / "index.html").read_text(encoding="utf-8")
    (copy / "index.html").write_text(html.replace("</body>", f"<script>{TYPE}</script></body>"), encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [*command, (copy / "index.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.findall(r'href="([^"]+)" class="md-search-result__link"', done.stdout)
    assert any("cache-format.html" in address and "#manifestjson" in address for address in found), found
