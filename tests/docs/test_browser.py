"""Every page of the built site in a real browser, from the disk: nothing is asked of a network.

`VASHISTA_SITE` names a built site; without it one is built here, which takes minutes.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine (apt install chromium)", allow_module_level=True)

ROOT = Path(__file__).parents[2]
WINDOWS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
# Commands and delimiters that a reader would see if mathematics were not rendered.
RAW_TEX = re.compile(r"\\(?:[([]|[a-zA-Z]{2,})|\$\$|<!-- ")
# What is on the page as text, without code and without the copy of formulas for screen readers.
TEXT = """() => {
  const copy = document.querySelector("article").cloneNode(true);
  for (const hidden of copy.querySelectorAll("pre, code, .katex-mathml, script, style"))
    hidden.remove();
  return copy.textContent;
}"""
# What sticks out of the window although nothing around it scrolls.
WIDER = """() => {
  const kinds = ["auto", "scroll", "hidden"];
  const scrolls = (e) =>
    e && (kinds.includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const out = (e) => e.getBoundingClientRect().right > window.innerWidth + 1;
  return [...document.querySelectorAll("article *")]
    .filter((e) => out(e) && !scrolls(e.parentElement))
    .map((e) => `${e.tagName} ${e.textContent.slice(0, 60)}`);
}"""
# Numbers of formulas that stand on their formula.
HIDDEN = """() => [...document.querySelectorAll(".katex-html > .katex-tag")]
  .filter((tag) => tag.previousElementSibling.getBoundingClientRect().right
    > tag.firstElementChild.getBoundingClientRect().left + 1 && tag.offsetWidth)
  .map((tag) => tag.textContent)"""
RENDERED = ".arithmatex > .katex, .arithmatex > .katex-display"
LINKS = "() => [...document.querySelectorAll('a[href]')].map((a) => a.href)"
ANCHORS = "() => [...document.querySelectorAll('[id], a[name]')].map((e) => e.id || e.name)"
BROKEN = """() => [...document.querySelectorAll("article img")]
  .filter((i) => !i.naturalWidth).map((i) => i.src)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built site."""
    if "VASHISTA_SITE" in os.environ:
        return Path(os.environ["VASHISTA_SITE"]).resolve()
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    subprocess.run(build, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox does not work for root in a container; the pages are our own.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """A page as it was found, and what its opening asked for and complained of."""

    def __init__(self, browser: Any, path: Path) -> None:
        page = browser.new_page(viewport=WINDOWS["desktop"])
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri(), wait_until="load")
        self.text: str = page.evaluate(TEXT)
        self.formulas: int = page.locator(".arithmatex").count()
        self.rendered: int = page.locator(
            ".arithmatex > .katex, .arithmatex > .katex-display"
        ).count()
        self.numbered: int = page.locator(".katex-tag").count()
        self.wrong_formulas: int = page.locator(".katex-error").count()
        self.links: list[str] = page.evaluate(LINKS)
        self.anchors: set[str] = set(page.evaluate(ANCHORS))
        self.broken_pictures: list[str] = page.evaluate(BROKEN)
        self.wide, self.hidden_numbers = {}, {}
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        for window, size in WINDOWS.items():
            page.set_viewport_size(size)
            self.wide[window] = page.evaluate(WIDER)
            self.hidden_numbers[window] = page.evaluate(HIDDEN)
        page.close()

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def visits(site: Path, browser: Any) -> dict[Path, Visit]:
    """Every page of the site, opened once."""
    paths = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(paths) > 30
    return {path.resolve(): Visit(browser, path) for path in paths}


def test_the_console_is_silent(visits: dict[Path, Visit]) -> None:
    assert not {path.name: v.complaints for path, v in visits.items() if v.complaints}


def test_nothing_is_fetched_from_a_network(visits: dict[Path, Visit]) -> None:
    local = ("file:", "data:", "blob:")
    assert not {u for v in visits.values() for u in v.asked if not u.startswith(local)}


def test_mathematics_is_rendered(visits: dict[Path, Visit]) -> None:
    assert sum(v.formulas for v in visits.values()) > 300
    for path, visit in visits.items():
        assert visit.rendered == visit.formulas, path.name
        assert not visit.wrong_formulas, path.name
        assert not RAW_TEX.findall(visit.text), path.name


def test_pictures_are_there(visits: dict[Path, Visit]) -> None:
    assert not [source for v in visits.values() for source in v.broken_pictures]


def test_links_lead_somewhere(site: Path, visits: dict[Path, Visit]) -> None:
    dead = []
    for path, visit in visits.items():
        for link in visit.links:
            address, anchor = urldefrag(link)
            if not address.startswith("file:"):
                continue
            target = Path(unquote(urlparse(address).path))
            known = visits.get(target)
            if not target.is_file() or (anchor and known and unquote(anchor) not in known.anchors):
                dead.append(f"{path.relative_to(site)} → {link}")
    assert not dead


@pytest.mark.parametrize("window", WINDOWS)
def test_nothing_sticks_out_of_the_window(visits: dict[Path, Visit], window: str) -> None:
    assert not {path.name: v.wide[window][:3] for path, v in visits.items() if v.wide[window]}


@pytest.mark.parametrize("window", WINDOWS)
def test_no_formula_runs_into_its_number(visits: dict[Path, Visit], window: str) -> None:
    assert sum(v.numbered for v in visits.values()) > 30
    found = {path.name: v.hidden_numbers[window] for path, v in visits.items()}
    assert not {name: numbers for name, numbers in found.items() if numbers}


def test_search_finds_a_statement(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport=WINDOWS["desktop"])
    page.goto((site / "index.html").as_uri())
    page.locator("input[data-md-component=search-query]").fill("glossary")
    page.locator(".md-search-result__item a").first.wait_for(timeout=20_000)
    page.close()


def test_raw_tex_is_noticed() -> None:
    for raw in (r"a \(x\) b", r"\frac12", "$$x$$", "<!-- figures -->"):
        assert RAW_TEX.search(raw)
    assert not RAW_TEX.search("T1′: ε ≤ κ²/(4(log n − h)), costs $5")
