"""Write the page that says what this site was made from: versions, times, data, stored results.

python book/status.py build/executed build/book/book/status.md
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from address import ROOT, current

from fragility import network
from fragility.data import sources
from fragility.study.machine import describe
from fragility.study.store import stored

PACKAGES = (
    "fragility",
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "seaborn",
    "scikit-learn",
    "scikit-image",
    "jupyter-book",
    "papermill",
    "jupytext",
)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def commit_link(commit: str | None) -> str:
    """Return a link to a commit; "+changes" stays visible."""
    if commit is None:
        return "unknown"
    number = commit.partition("+")[0]
    return f"[{commit.replace(number, number[:10])}](https://github.com/{current()}/commit/{number})"


def stored_results() -> list[list[str]]:
    """List every table of results with how it came about."""
    rows = []
    for path in sorted((ROOT / "results").glob("*.json")):
        story = json.loads(path.read_text(encoding="utf-8"))
        sessions = [part for part in story["sessions"] if part["seconds"]]
        seconds = sum(sum(part["seconds"].values()) for part in sessions)
        done = story["pieces"]
        rows.append(
            [
                path.stem,
                f"{story['rows']}",
                f"{done['done']} of {done['planned']}",
                "; ".join(sorted({part["device"] for part in sessions})),
                f"{seconds / 60:.0f} min",
                ", ".join(dict.fromkeys(commit_link(part["commit"]) for part in sessions)),
            ]
        )
    return rows


def inputs() -> list[list[str]]:
    """List the data and weights that the stored results were made from, with checksums."""
    stories = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "results").glob("*.json"))}
    return [[name, "; ".join(facts(story["inputs"]))] for name, story in stories.items() if story["inputs"]]


def facts(entries: Mapping[str, object]) -> list[str]:
    """Flatten what a table was made from; checksums are shortened to 16 digits."""
    told: list[str] = []
    for name, entry in entries.items():
        if isinstance(entry, Mapping):
            told += [f"{name}: {', '.join(facts(entry))}"]
        else:
            checksum = re.fullmatch("[0-9a-f]{64}", str(entry))
            told.append(f"{name} `{checksum[0][:16]}`" if checksum else f"{name} {entry}")
    return told


def checksums() -> list[list[str]]:
    """List the files that the package verifies when it fetches or checks a source, with their checksums."""
    weights, caffe = "SqueezeNet's weights, in the package", "squeezenet_v1.1.bin"
    known = {name: source.checksums for name, source in sources.SOURCES.items()}
    known[weights] = {caffe: network.CAFFE_SHA256}
    return [
        [name, f"`{file}`", f"`{digest}`" if digest else "packed anew for every download"]
        for name, files in known.items()
        for file, digest in files.items()
    ]


def page(executed: Path) -> str:
    """Compose the page.

    Args:
        executed: folder with the executed notebooks and their `seconds.json`.

    Returns:
        MyST Markdown.
    """
    seconds = json.loads((executed / "seconds.json").read_text(encoding="utf-8"))
    here = describe("cpu")
    parts = [
        "# Status",
        "What this site was made from. The page is written by `make book`; nothing on it is typed by hand.",
        "## This build",
        table(
            ["", ""],
            [
                ["commit", commit_link(here["commit"])],
                ["machine", f"{here['device']}, {platform.system()}, Python {platform.python_version()}"],
                ["GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none"],
                ["cores used", str(os.cpu_count())],
                *([name, version(name)] for name in PACKAGES),
            ],
        ),
        "## The notebooks",
        table(["notebook", "seconds"], [[name, f"{value:.0f}"] for name, value in seconds["notebooks"].items()]),
        f"Executed at the profile `{seconds['profile']}`, side by side, one thread each.",
        "## What the site weighs",
        'Texts are counted as servers pack them.\n\n<div id="weight"></div>',
        "## Stored results",
        table(["table", "rows", "pieces done", "device", "computed in", "at commit"], stored_results()),
        f"Beside them, `published.csv` holds {len(stored('published'))} means read off the paper's figure.",
        "## What the stored results were made from",
        "Checksums are shortened to 16 digits; the JSON files beside the tables have them whole.",
        table(["table", "source"], inputs()),
        "## Data sources",
        table(
            ["name", "download", "licence"],
            [
                [name, f"{part.megabytes:.0f} MB" if part.megabytes else "-", part.licence]
                for name, part in sources.SOURCES.items()
            ],
        ),
        "What is downloaded is compared with these checksums (sha256 where nothing else is said); `fragility data "
        "check` does it again. What needs no download comes with the package versions above.",
        table(["source", "file", "checksum"], checksums()),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(Path(sys.argv[1])), encoding="utf-8")
