"""What publishing and other machines rest on: links under another address, Binder, systems without glibc or git."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import published
import pytest
import rehearsal
import weight
import yaml
from address import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

HOME = "https://some-one.github.io/there/"
PAGES = {
    "index.html": '<a href="book/a.html#here">a</a> <a href="https://elsewhere.example/">out</a> <h1 id="top">x</h1>',
    "404.html": f'<a href="{HOME}book/a.html">a</a> <a href="/there/book/a.html">a</a>',
    "book/a.html": '<p id="here">b</p> <a href="../index.html#top">up</a> <img src="../p.png"> <a href="#here">h</a>',
    "p.png": "a picture",
}


def site(folder: Path, **changed: str) -> Path:
    for name, text in (
        PAGES | {name.replace("__", "/").replace("_", "."): text for name, text in changed.items()}
    ).items():
        path = folder / "html" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "html"


def test_every_link_of_a_sound_site_leads_somewhere_under_its_path(tmp_path: Path) -> None:
    with rehearsal.served(site(tmp_path), "/there/") as start:
        assert start.endswith("/there/")
        assert rehearsal.follow(start, HOME) == ([], {"https://elsewhere.example/"})


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        ('<a href="none.html">', "book/a.html links to book/none.html"),
        ('<a href="../index.html#no">', "book/a.html links to index.html#no"),
        ('<img src="/p.png">', "book/a.html links to http"),
        (f'<a href="{HOME}none.html">', "book/a.html links to none.html"),
    ],
)
def test_a_missing_page_anchor_or_picture_and_a_link_out_of_the_path_are_found(
    tmp_path: Path, body: str, broken: str
) -> None:
    with rehearsal.served(site(tmp_path, book__a_html=f'<p id="here"></p>{body}'), "/there/") as start:
        (found,) = rehearsal.follow(start, HOME)[0]
    assert found.startswith(broken)


def test_a_button_that_opens_another_repository_or_no_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").touch()
    right = {
        "https://colab.research.google.com/github/a/b/blob/main/n.ipynb",
        "https://mybinder.org/v2/gh/a/b/main?urlpath=lab/tree/n.ipynb",
        "https://github.com/a/b/edit/main/n.ipynb",
        "https://github.com/other/project",
    }
    wrong = {address.replace("a/b", "a/c") for address in right - {"https://github.com/other/project"}}
    wrong |= {address.replace("n.ipynb", "m.ipynb") for address in right - {"https://github.com/other/project"}}
    assert rehearsal.misled(right, "a/b", tmp_path) == []
    assert rehearsal.misled(right | wrong, "a/b", tmp_path) == sorted(wrong)


def test_the_rehearsal_runs_what_the_workflow_runs() -> None:
    commands = rehearsal.steps(ROOT / ".github" / "workflows" / "book.yml")
    assert commands[-1] == "make book"
    assert any("address.py" in command for command in commands)


def test_the_footer_names_version_commit_and_day_and_only_the_version_without_a_checkout(tmp_path: Path) -> None:
    here = published.built_from("https://github.com/a/b")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'<a href="https://github.com/a/b/commit/{commit.strip()}">{commit[:10]}</a>' in here
    assert published.built_from("https://github.com/a/b") == here
    assert published.built_from("https://github.com/a/b", tmp_path) == here.partition(",")[0]


def test_what_a_site_weighs_is_counted_by_kind_and_packed(tmp_path: Path) -> None:
    folder = site(tmp_path, book__a_html='<script src="../s.js"></script><img src="../p.png">', s_js="1;" * 5000)
    kinds = {kind: (count, size) for kind, count, size in weight.totals(folder)}
    assert kinds["pictures"] == (1, len(PAGES["p.png"]))
    assert kinds["pages"][0] == 3
    assert kinds["scripts and styles"][1] < 200
    assert weight.bare(folder / "book" / "a.html") < 400
    assert ">3</td>" in weight.table(weight.totals(folder))


def test_binder_installs_the_pins_and_the_package() -> None:
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    options = dict(line.split(" ", 1) for line in lines if line.startswith("--"))
    assert (ROOT / ".binder" / options["--constraint"]).resolve() == ROOT / "requirements.lock"
    assert Requirement(options["--editable"].replace(".", "fragility", 1)).extras == {"data"}
    python = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    assert python in SpecifierSet(">=3.11")
    launch = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["launch_buttons"]
    assert launch["binderhub_url"] == "https://mybinder.org"


ELSEWHERE = """
import ctypes, sys
from fragility.study import machine
def refuse(name): raise OSError("there is no C library of that kind here")
{patch}
with machine.repeatable():
    import torch
    print(float(torch.ones(3).sum()), machine.describe("cpu")["commit"])
"""


@pytest.mark.parametrize(
    "patch",
    [
        'sys.platform = "darwin"; ctypes.CDLL = refuse',
        "ctypes.CDLL = lambda name: object()",  # a Linux whose C library has no mallopt
    ],
)
def test_the_package_computes_where_memory_cannot_be_kept_and_git_is_not_there(patch: str, tmp_path: Path) -> None:
    code = ELSEWHERE.format(patch=patch)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["3.0", "None"]


def test_a_page_that_the_build_wrote_offers_no_edit() -> None:
    button = '<li><a href="https://github.com/a/b/{}/main/book/status.md" class="x">\n<span>Suggest</span>\n</li>'
    page = f"<ul>{button.format('edit')}{button.format('blob')}</ul>"
    assert published.without_edit(page) == f"<ul>{button.format('blob')}</ul>"
