"""The ledger of claims (`claims.toml`), judged from the stored results: `fragility claims`."""

import json
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from fragility.study.claims_page import entry, page
from fragility.study.ledger import Claim, Judged, judge
from fragility.study.store import checkout


def _claim(entry: dict[str, Any]) -> Claim:
    module, _, name = entry.pop("rule").rpartition(".")
    return Claim(**entry, rule=getattr(import_module(f"fragility.study.{module}"), name))


LEDGER = tuple(map(_claim, tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["claim"]))


def judge_all(folder: Path | None = None) -> list[Judged]:
    """Evaluate every claim.

    Args:
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        In the order of the ledger.
    """
    return [judge(claim, folder) for claim in LEDGER]


def write(folder: Path | None = None) -> Path:
    """Write the book's page into the checkout, and the same as data, `book/_static/claims.json`.

    Args:
        folder: where the results lie; None for those of the checkout.

    Returns:
        The page.

    Raises:
        FileNotFoundError: outside of a checkout.
    """
    root = checkout()
    if root is None:
        raise FileNotFoundError("book/claims.md: expected a checkout of the repository, got an installed package")
    judged, path = judge_all(folder), root / "book" / "claims.md"
    path.write_text(page(judged, chapters(root)), encoding="utf-8")
    (root / "book" / "_static" / "claims.json").write_text(as_json(judged), encoding="utf-8")
    return path


def as_json(judged: list[Judged]) -> str:
    """Write claims as data."""
    return json.dumps({"claims": [entry(one) for one in judged]}, indent=1, ensure_ascii=False) + "\n"


def chapters(root: Path) -> list[str]:
    """List the names of the chapters of a checkout, without suffix."""
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
