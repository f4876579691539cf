"""Open the built site in a headless Chromium, over a local server: for the tests and for screenshots.

`python book/browser.py SITE FOLDER` photographs every page, desktop and phone, light and dark.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from address import current, site_address
from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS = {"desktop": 1280, "phone": 360}
NOT_PAGES = {"404", "genindex", "index", "search"}  # not the book's own; index only forwards to the first page
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class _Quiet(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        """Find a file by its address on the published site too, which the page for wrong addresses uses."""
        home = urlsplit(site_address(f"https://github.com/{current()}")).path
        return super().translate_path(f"/{path.removeprefix(home)}")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the tests report what matters."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free local port and give its address, without a slash at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def executable() -> str:
    """Find a Chromium: `$CHROMIUM`, or one on the path.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: there is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None or not Path(found).is_file():
        raise FileNotFoundError(f"expected a Chromium at $CHROMIUM or on the path as one of {names}, got {found}")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium that makes no request of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def page_names(site: Path) -> list[str]:
    """Return the site's own pages, as paths without the suffix.

    Args:
        site: the folder with the built HTML.

    Returns:
        Names such as `book/intro`, sorted.

    Raises:
        FileNotFoundError: there is no built site.
    """
    if not (site / "index.html").exists():
        raise FileNotFoundError(f"site: expected a built book at {site}, got nothing; run `make book` first")
    names = (path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html"))
    return sorted(name for name in names if name not in NOT_PAGES and not name.startswith("_"))


def settle(page: Page) -> None:
    """Wait until the formulas are set and every picture, also those far below, is loaded."""
    page.evaluate("""async () => {
        if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
        document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; });
        await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
        await document.fonts.ready;
    }""")


def photograph(site: Path, folder: Path) -> None:
    """Write a screenshot of every page: desktop and phone, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    with serve(site) as address, chromium() as browser:
        for scheme in ("light", "dark"):
            for device, width in WIDTHS.items():
                context = browser.new_context(viewport={"width": width, "height": 800})
                context.add_init_script(f"localStorage.setItem('mode', '{scheme}')")
                page = context.new_page()
                for name in page_names(site):
                    page.goto(f"{address}/{name}.html")
                    settle(page)
                    target = folder / f"{name.replace('/', '-')}-{device}-{scheme}.png"
                    page.screenshot(path=target, full_page=True)
                context.close()
    print(f"{len(list(folder.glob('*.png')))} screenshots in {folder}")


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), Path(sys.argv[2]))
