"""What is made of the executed notebooks besides the site: slides, status, the watch over stored results."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pages
import pytest
import slides
import status

DECK = [
    slides.chapter(nbformat.read(path, as_version=4), path.stem) for path in sorted(pages.NOTEBOOKS.glob("*.ipynb"))
]


def test_every_figure_is_on_a_slide_with_its_caption_and_alternative_text() -> None:
    shown = "".join(slide.body for part in DECK for slide in part)
    count = 0
    for path in sorted(pages.NOTEBOOKS.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if {"image/png", "image/svg+xml"} & set(output.get("data", {})):
                    count += 1
                    data = output.data.get("image/svg+xml")
                    encoded = output.data["image/png"] if data is None else base64.b64encode(data.encode()).decode()
                    assert encoded.replace("\n", "") in shown, (path.name, cell.metadata.mystnb.figure.name)
    assert count == shown.count("<figure>") == len(re.findall(r'<img src="[^"]+" alt="[^"]{10,}">', shown))
    assert count > 20


def test_a_chapter_opens_with_its_goals_and_closes_with_what_was_measured() -> None:
    for part in DECK[:6]:
        assert "<li>" in part[0].body, part[0].heading
        assert any("Claimed" in slide.heading and "<table>" in slide.body for slide in part), part[0].heading


def test_the_deck_needs_nothing_else_and_its_formulas_are_set() -> None:
    deck = slides.deck([slide for part in DECK for slide in part])
    assert set(re.findall(r'(?:src|srcset)="(\w+):', deck)) == {"data"}
    assert not re.search(r"<link|@import|url\(", deck)
    words = re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>|<code>.*?</code>|<img[^>]*>", "", deck)
    assert "<math" in words
    assert not re.search(r"\$[^$]+\$", words)


def test_the_status_page_has_the_checksums_that_are_verified() -> None:
    rows = status.checksums()
    assert {"mnist", "fashion_mnist", "cifar10", "imagenet", "flowers"} < {row[0] for row in rows}
    digests = [row[2].strip("`").removeprefix("md5 ") for row in rows]
    assert sum(re.fullmatch(r"[0-9a-f]{64}", digest) is not None for digest in digests) >= 10


def test_a_page_that_reads_results_it_does_not_name_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "09_read.py"
    text = '# %% [markdown]\n# # Read\n\n# %% tags=["parameters"]\nprofile = "fast"\n\n# %%\nlen(open({}).read()) > 0\n'
    named = f'"{pages.RESULTS}/published.csv"'
    source.write_text(text.format(named.replace("lished", '" + "lished')), encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"does not name in quotes: \['published.csv'\]"):
        pages.execute(source, source.with_suffix(".ipynb"), {})
    source.write_text(text.format(named), encoding="utf-8")
    pages.execute(source, source.with_suffix(".ipynb"), {})
    assert pages.results_read(source) == [pages.RESULTS / "published.csv"]
