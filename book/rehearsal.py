"""Rehearse publishing under another address: the workflow's steps on a copy, the site at its path, every link followed.

    python book/rehearsal.py build/rehearsal

Notebooks are not executed again: the copy gets the packages and the executed pages that are here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import ProxyHandler, build_opener

import yaml
from address import ROOT, current, site_address

ADDRESS = "https://github.com/Some-One/else.where"
_LINK = re.compile(r'\b(?:href|src)="([^"#][^"]*|#[^"]+)"')
_ANCHOR = re.compile(r'\b(?:id|name)="([^"]+)"')
# What leads to a file of the repository, by the service that opens it.
_OPENED = re.compile(
    r"https://(?:github\.com/(?P<hub>[^/]+/[^/]+)/(?:blob|edit|tree|raw)/main"
    r"|colab\.research\.google\.com/github/(?P<colab>[^/]+/[^/]+)/blob/main"
    r"|mybinder\.org/v2/gh/(?P<binder>[^/]+/[^/]+)/main\?urlpath=(?:lab/)?tree)/(?P<path>[^?#]+)"
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def served(site: Path, path: str) -> Iterator[str]:
    """Serve a site under a path and give its address, with a slash at the end."""
    folder = site.parent / "www"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(site, folder / path.strip("/"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{path.strip('/')}/".replace("//", "/").replace(":/", "://", 1)
        finally:
            server.shutdown()
            thread.join()


def follow(start: str, home: str) -> tuple[list[str], set[str]]:
    """Follow every link of a served site.

    Args:
        start: its address, with a slash at the end.
        home: where it is to be published; links that begin so count as the site's own.

    Returns:
        What is broken, a line each, and the addresses elsewhere that the pages link to.
    """
    texts: dict[str, str | None] = {}
    outside: set[str] = set()
    links: set[tuple[str, str]] = set()
    waiting = [start, f"{start}404.html"]
    reader = build_opener(ProxyHandler({}))  # no proxy reaches the server above
    while waiting:
        page = waiting.pop()
        if page in texts:
            continue
        try:
            with reader.open(page) as answer:
                kind = answer.headers.get_content_type()
                body = answer.read()
                texts[page] = body.decode() if kind == "text/html" else ""
        except HTTPError:
            texts[page] = None
        for link in map(unescape, _LINK.findall(texts[page] or "")):
            target = urljoin(page, link.replace(home, start, 1) if link.startswith(home) else link)
            if target.startswith(start):
                links.add((page, target))
                waiting.append(urldefrag(target)[0])
            elif urlsplit(target).netloc == urlsplit(start).netloc:
                links.add((page, target))  # outside of the site's path
                texts.setdefault(urldefrag(target)[0], None)
            elif urlsplit(target).scheme in ("http", "https"):
                outside.add(target)
    broken = []
    for page, target in sorted(links):
        address, anchor = urldefrag(target)
        text = texts[address]
        if text is None or (text and anchor and unquote(anchor) not in _ANCHOR.findall(text)):
            broken.append(f"{page.removeprefix(start)} links to {target.removeprefix(start)}")
    return broken, outside


def misled(outside: set[str], repository: str, root: Path) -> list[str]:
    """List the links to files of the repository that open another repository or a file that is not there.

    Args:
        outside: addresses.
        repository: the NAME/REPOSITORY that they should lead to.
        root: its checkout.

    Returns:
        The addresses.
    """
    found = []
    for address in sorted(outside):
        if match := _OPENED.match(address):
            there = match["hub"] or match["colab"] or match["binder"]
            if there != repository or not (root / unquote(match["path"])).exists():
                found.append(address)
    return found


def steps(workflow: Path) -> list[str]:
    """Return the commands of the workflow's job that builds the site, up to the site."""
    job = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]["build"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    return commands[: commands.index("make book") + 1]


def main(folder: Path) -> int:
    """Build the copy, follow its links, and return the exit status."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    old, repository = current(), ADDRESS.removeprefix("https://github.com/")
    variables = os.environ | {"GITHUB_REPOSITORY": repository}
    (folder / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(ROOT / "build" / "executed", folder / "build" / "executed")
    shutil.copy(ROOT / "build" / "profile", folder / "build")
    for command in steps(folder / ".github" / "workflows" / "book.yml"):
        for page in (folder / "build" / "executed").glob("*.ipynb"):
            page.write_text(page.read_text(encoding="utf-8").replace(old, repository), encoding="utf-8")
        for made in (folder / ".venv" / ".ready", folder / "build" / "executed" / ".done"):
            made.touch()  # newer than the sources in which the address stands
        subprocess.run(["bash", "-euc", command], cwd=folder, env=variables, check=True)
    home, site = site_address(ADDRESS), folder / "build" / "book" / "_build" / "html"
    with served(site, urlsplit(home).path) as start:
        broken, outside = follow(start, home)
    wrong = misled(outside, repository, folder)
    opened = [address for address in outside if _OPENED.match(address)]
    for host in ("colab.research.google.com", "mybinder.org", "github.com"):
        print(f"{sum(urlsplit(address).netloc == host for address in opened)} files open on {host}")
    stale = [path for path in site.rglob("*.html") if old in path.read_text(encoding="utf-8")]
    problems = broken + [f"leads astray: {address}" for address in wrong]
    problems += [f"still names {old}: {path.relative_to(site)}" for path in stale]
    print("\n".join(problems) or f"Every link of {len(list(site.rglob('*.html')))} pages leads somewhere under {home}")
    return int(bool(problems) or not opened)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
