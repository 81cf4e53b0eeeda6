"""Reports and previews in a real browser: wide and narrow, light and dark, nothing sticks out and all can be read."""

import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data.examples import TASKS
from tests.trainer.reports.page import workdirs
from trainer.preview import Picture, Preview, Row, Section
from trainer.preview_range import Spread
from trainer.reports import preview_page
from trainer.reports.page import pictures, run, writing

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Chromium looks for updates, accounts and other hosts unless it is told not to.
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
LOOK = Path(__file__).with_name("seen.js").read_text()
# A name that cannot be broken where one would like to.
LONG = "supercalifragilistic" * 6


def section():
    picture = Picture(np.full((32, 32, 3), 90, np.uint8), ("epoch 0", f"rotation: {LONG}"))
    return Section("Examples", "As an evaluation sees them.", [Row(f"cat/{LONG}.png", [picture] * 9)])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    names = ("cat", f"dog {LONG}", *(f"class {index}" for index in range(20)))
    made = {task: workdirs.make(folder / task, task=task, names=names) for task in TASKS}
    found = {task: run.read(workdir) for task, workdir in made.items()}
    picture = pictures.of_files(str(folder / "binary" / "photos"))
    shown = {task: writing.single(each, picture=picture, sheet=section) for task, each in found.items()}
    facts, warnings = [("data", f"/photos/{LONG}"), ("policy", "rotation")], [f"The range does not fit {LONG}."]
    spreads = {"what the network sees": Spread([np.zeros((1, 1, 1, 3))])}
    preview = Preview(facts=facts, warnings=warnings, sections=[section()], spreads=spreads)
    return shown | {"several": writing.several(list(found.values())), "preview": preview_page.render(preview)}


def around(frames):
    """A page that writes down what the others look like. The scheme of a frame is the one that its page prefers."""
    style = "width: {}px; height: 800px; color-scheme: {}"
    shown = [
        f'<iframe style="{style.format(width, scheme)}" srcdoc="{html.escape(page)}"></iframe>'
        for page, width, scheme in frames
    ]
    look = """addEventListener("load", () => {
        const frames = [...document.querySelectorAll("iframe")];
        document.querySelector("pre").textContent = JSON.stringify(frames.map((each) => looked_at(each.contentWindow)));
    });"""
    return f'<!DOCTYPE html><meta charset="utf-8"><pre></pre>{"".join(shown)}<script>{LOOK}{look}</script>'


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_pages_fit_and_can_be_read_on_every_screen(pages, tmp_path):
    variants = list(itertools.product(pages, WIDTHS, SCHEMES))
    page = tmp_path / "around.html"
    page.write_text(around([(pages[name], width, scheme) for name, width, scheme in variants]))
    command = [BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    seen = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", printed, re.DOTALL)[1]))
    for (name, width, scheme), found in zip(variants, seen, strict=True):
        about = f"{name} at {width} px, {scheme}: {found}"
        assert found["dark"] == (scheme == "dark") and width - 20 <= found["width"] <= width, about
        assert found["texts"] > 30 and found["scrolls"] <= 0 and found["faint"] == [], about
        assert found["squeezed"] == [], about
