"""The page of `rtstore report` in a real browser: Chromium, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import crashed_team, ready_team, run
from tests.cli.test_report import HOSTILE, make_troubled, secrets_of
from tests.support import LEASES, open_store, write

WIDTHS = (400, 1400)
SERIOUS = {"serious", "critical"}
OPEN_ALL = """
document.querySelectorAll('details').forEach(each => each.open = true);
document.querySelectorAll('*').forEach(each => each.style.contentVisibility = 'visible');
"""
NO_SCROLLING = "document.documentElement.scrollWidth <= window.innerWidth"
ASK = "fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'refused')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of the system, or the one of playwright."""
    why = "playwright is not installed: pip install -e '.[browser]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=why)
    with playwright.sync_playwright() as started:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), None)
        path = found or started.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium")
        options = {"executable_path": path, "args": ["--no-sandbox"]}
        with started.chromium.launch(**options) as launched:
            yield launched


class Opened:
    """A page as it is opened, and what the browser said and asked for meanwhile."""

    def __init__(self, browser: Any, width: int, scheme: str) -> None:
        view = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=view, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path) -> None:
        """Open a file."""
        self.page.goto(path.as_uri())


def _hostile(parent: Path) -> Path:
    with open_store(parent / "hostile") as store:
        for number in range(3):
            write(store, LEASES, {text: [text, number] for text in HOSTILE if "alone" not in text})
    return parent / "hostile"


@pytest.mark.thorough
def test_pages_in_chromium(tmp_path: Path, browser: Any) -> None:
    """Whatever is in it, a page says nothing on the console, asks for nothing, does not scroll
    sideways on a telephone or a screen, light or dark, folded or not, and axe finds nothing serious
    in it. Its policy refuses what a script would ask for."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    crashed = crashed_team(tmp_path)
    recovered = ready_team(tmp_path)
    (recovered / "lanes").mkdir()
    crashed_team(recovered / "lanes")
    pages: dict[str, tuple[list[Path | str], int]] = {
        "crashed": ([crashed], 1),
        "recovered": ([recovered], 2),
        "hostile": ([_hostile(tmp_path)], 1),
        "troubled": ([make_troubled(tmp_path, secrets_of(1))], 1),
        "redacted": ([tmp_path, "--redact"], 5),
    }
    for number, (name, (words, directories)) in enumerate(pages.items()):
        page = tmp_path / f"{name}.html"
        made = run("report", *words, "-o", page, "--json")
        assert len(made.json()["directories"]) == directories, name
        for width in WIDTHS:
            with ExitStack() as stack:
                scheme = ("light", "dark")[(number + (width > 400)) % 2]
                opened = Opened(browser, width, scheme)
                stack.callback(opened.context.close)
                opened.open(page)
                assert opened.page.evaluate(NO_SCROLLING), (name, width)
                opened.page.evaluate(OPEN_ALL)
                assert opened.page.evaluate(NO_SCROLLING), (name, width)
                found = axe.run(opened.page).response["violations"]
                assert [each for each in found if each["impact"] in SERIOUS] == [], (name, width)
                assert (opened.said, opened.asked) == ([], [page.as_uri()])
                assert opened.page.evaluate(ASK) == "refused"


@pytest.mark.thorough
def test_the_browser_would_notice(tmp_path: Path, browser: Any) -> None:
    """The checks above are not vacuous: a page with a script, a picture from elsewhere, a wide line
    and grey on grey fails each of them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><html><img src='http://127.0.0.1:9/a.png'><script>alert(1)</script>"
        "<p style='width:2000px;color:#aaa;background:#bbb'>words</p></html>"
    )
    opened = Opened(browser, 400, "light")
    opened.page.on("dialog", lambda dialog: dialog.dismiss())
    opened.open(page)
    assert not opened.page.evaluate(NO_SCROLLING)
    assert {"1"} < set(opened.said)
    assert "http://127.0.0.1:9/a.png" in opened.asked
    impacts = {each["id"]: each["impact"] for each in axe.run(opened.page).response["violations"]}
    assert impacts["color-contrast"] in SERIOUS
    opened.context.close()
