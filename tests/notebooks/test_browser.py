"""Notebook 1 in JupyterLab in a real browser: a mouse drags the query, and the page is believed.

What the page then shows is compared with numpy and the geometry of a polygon, not with the package.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="the extra `notebooks` is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine (apt install chromium)", allow_module_level=True)

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_geometry_of_attention.py"
# A kernel at once, and every cell on the page whether or not it is in sight.
SETTINGS = {"autoStartDefaultKernel": True, "windowingMode": "none"}
PATIENCE = 240_000  # milliseconds: a first execution compiles
# The page shows three decimals.
SHOWN = 6e-4


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab of its own on the notebook, with settings of nobody; its address."""
    name = NOTEBOOK.with_suffix(".ipynb").name
    jupytext.write(jupytext.read(NOTEBOOK), tmp_path / name)
    port, token, log = _free_port(), secrets.token_hex(16), tmp_path / "lab.log"
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {folder: str(tmp_path / folder.lower()) for folder in folders}
    own["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    settings = Path(own["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps(SETTINGS))
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}"),
                *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}"),
                # A container's user may be root; nothing but this machine is listened to.
                *("--ip=127.0.0.1", "--allow-root", "--LabApp.extension_manager=readonly"),
            ],
            env={**os.environ, **own, "VASHISTA_QUICK": "1", "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(server, f"http://127.0.0.1:{port}/api?token={token}", log)
        yield f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def page(lab: str) -> Iterator[Any]:
    """The notebook, open and executed."""
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox does not work for root in a container; the page is our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.goto(lab)
        opened.locator(".jp-Notebook").first.wait_for(timeout=PATIENCE)
        # The notebook's own indicator says "idle" before there is a kernel.
        opened.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE)
        opened.get_by_role("menuitem", name="Run", exact=True).click()
        opened.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
        yield opened
        browser.close()


def nearest(keys: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, list[int], float]:
    """Nearest point of the hull to a query outside, the face, and the gap, by hand.

    All keys but the last are the corners, in order. Every edge is tried: the foot of the
    perpendicular, kept within the edge.
    """
    polygon = keys[:-1]
    ends = np.roll(polygon, -1, axis=0)
    edges = ends - polygon
    along = np.sum((query - polygon) * edges, axis=1) / np.sum(edges**2, axis=1)
    feet = polygon + np.clip(along, 0, 1)[:, None] * edges
    point = feet[np.argmin(np.linalg.norm(feet - query, axis=1))]
    behind = (point - keys) @ (query - point)
    face = np.flatnonzero(behind < 1e-9).tolist()
    return point, face, float(np.delete(behind, face).min())


def shown(page: Any) -> dict[str, str]:
    """The readings beside the picture."""
    rows = page.locator(".vashista-side dd").all()
    return {row.get_attribute("data-reading"): row.inner_text() for row in rows}


def drag_query(page: Any, x: float, y: float) -> None:
    """Take the query with the mouse and put it at a place given in shares of the picture."""
    box = page.locator(".vashista-plane svg").bounding_box()
    held = page.locator("[data-handle=query]").bounding_box()
    page.mouse.move(held["x"] + held["width"] / 2, held["y"] + held["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=12)
    page.mouse.up()


def settled_query(page: Any, before: list[float]) -> list[float]:
    """Where the query is once the kernel has answered and nothing moves any more."""
    reading, last = page.locator("[data-reading=query]"), before
    for _ in range(120):
        page.wait_for_timeout(500)
        now = json.loads(reading.get_attribute("data-exact"))
        if now == last and now != before:
            return now
        last = now
    pytest.fail(f"the query stayed at {before}")


def test_the_query_is_dragged_and_face_and_gap_follow(page: Any) -> None:
    page.locator(".vashista-plane").first.wait_for(timeout=PATIENCE)
    page.locator(".vashista-plane").first.scroll_into_view_if_needed()
    # The last cell sets the query from Python: wait for it, so that nothing else moves.
    page.get_by_text("'face': 'key").first.wait_for(timeout=PATIENCE)
    assert not page.locator(".jp-RenderedText[data-mime-type*=error]").count()
    source = NOTEBOOK.read_text(encoding="utf-8")
    numbers = re.search(r"^keys = np\.array\(\n\s+(\[.*\])\n\)", source, re.MULTILINE)
    assert numbers is not None
    keys = np.array(json.loads(numbers[1]))
    start = json.loads(page.locator("[data-reading=query]").get_attribute("data-exact"))
    faces = []
    # Left, below, upper right: an edge or a corner each time, another one.
    for x, y in ((0.03, 0.5), (0.45, 0.96), (0.93, 0.07)):
        drag_query(page, x, y)
        start = settled_query(page, start)
        point, face, gap = nearest(keys, np.array(start))
        readings = shown(page)
        named = [int(number) for number in re.findall(r"\d+", readings["face"].split("(")[0])]
        assert named == face, readings
        assert float(readings["gap"].split("=")[1]) == pytest.approx(gap, abs=SHOWN)
        place = [float(number) for number in re.findall(r"-?\d+\.\d+", readings["projection"])]
        assert place == pytest.approx(point.tolist(), abs=SHOWN)
        faces.append(tuple(face))
    assert len(set(faces)) == 3
    # Into the hull: no face and no gap.
    drag_query(page, 0.4, 0.55)
    settled_query(page, start)
    assert "inside" in shown(page)["face"]
    assert shown(page)["gap"] == "Δ does not exist"
