"""The page of all experiments, as a browser sees it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gan.cli import main
from gan.lab import EXPERIMENTS, command
from gan.lab.experiment import load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUICK = {name: seconds for name, seconds in EXPERIMENTS.items() if seconds <= 2}


@pytest.fixture(scope="module", params=["quick", pytest.param("all", marks=pytest.mark.slow)])
def experiments(request) -> list[str]:
    return list(QUICK if request.param == "quick" else EXPERIMENTS)


@pytest.fixture(scope="module")
def page(tmp_path_factory, experiments) -> Path:
    """The page of the experiments that take seconds, and of all."""
    out = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "EXPERIMENTS", dict.fromkeys(experiments, 1))
        main(["lab", "all", "--out", str(out)])
    return out / "index.html"


class Elements(HTMLParser):
    """All elements of a page, with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def chromium(page: Path, *options: str) -> subprocess.CompletedProcess:
    """Opens a page without a window, and without a network."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    words += [f"--user-data-dir={page.parent / 'browser'}", "--hide-scrollbars", "--window-size=1100,1000", *options]
    return subprocess.run([*words, page.as_uri()], capture_output=True, encoding="utf-8", timeout=180, check=True)


def test_needs_nothing_beside_it(page):
    elements = Elements(page.read_text(encoding="utf-8")).elements
    assert "script" not in [tag for tag, _ in elements]
    for tag, attributes in elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            if (target := attributes.get(name)) and tag != "a":
                assert target.startswith("data:"), (tag, target[:80])
    assert not re.search(r"url\((?!['\"]?data:)|@import", page.read_text(encoding="utf-8"))


def test_has_everything(page, experiments):
    text = page.read_text(encoding="utf-8")
    elements = Elements(text).elements
    sections = [attributes["id"] for tag, attributes in elements if tag == "section"]
    assert sections == experiments
    assert [attributes["href"] for tag, attributes in elements if tag == "a"] == [f"#{name}" for name in experiments]
    for name in experiments:
        experiment = load(name)
        section = text[text.index(f'<section id="{name}">') :].split("</section>")[0]
        section = section.replace("<code>", "`").replace("</code>", "`")
        for part in (experiment.title, experiment.reference, experiment.mathematics.splitlines()[-1]):
            assert (
                part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;") in section
            )
        verdict = json.loads((page.parent / name / "verdict.json").read_text(encoding="utf-8"))
        assert section.count('class="pass"') == len(verdict["checks"]) > 0
        assert [head in section for head in ("<b>What you see.</b>", "<b>Why.</b>", "<b>Try.</b>")] == [True] * 3


def test_figures_are_visible_in_a_browser(page, experiments):
    probe = """<script>addEventListener("load", () => { document.body.dataset.probe = [...document.images].map(image =>
        `${image.naturalWidth}x${image.naturalHeight}:${image.getBoundingClientRect().width}`).join(" ")
        + ` overflow:${document.documentElement.scrollWidth - innerWidth}` })</script></body>"""
    copy = page.with_name("probed.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    probed = re.search(r'data-probe="([^"]*)"', chromium(copy, "--dump-dom").stdout).group(1)
    *images, overflow = probed.split()
    assert len(images) == len(experiments)
    for image in images:
        width, height, shown = map(float, re.split("[x:]", image))
        assert min(width, height) > 300
        assert 900 < shown <= 1100
    assert int(overflow.removeprefix("overflow:")) <= 0


def test_no_errors_in_the_console(page):
    errors = chromium(page, "--enable-logging=stderr", "--dump-dom").stderr
    assert "CONSOLE" not in errors


def test_the_console_is_heard(page):
    """That the test above can fail."""
    broken = page.with_name("broken.html")
    broken.write_text(
        page.read_text(encoding="utf-8").replace("</body>", "<script>missing()</script></body>"), encoding="utf-8"
    )
    assert "CONSOLE" in chromium(broken, "--enable-logging=stderr", "--dump-dom").stderr
