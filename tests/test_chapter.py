"""What opens and closes a chapter, and its tables."""

import shutil

import numpy as np
import pandas as pd
import pytest
from myst_parser.mdit_to_docutils.base import default_slugify

from fragility.chapter import Table, interval, ledger, means, start
from fragility.interval import mean_interval
from fragility.study import store
from fragility.study.claims import LEDGER
from fragility.study.claims_page import sentence
from fragility.study.ledger import as_markdown, heading, judge, shown


def test_table_is_markdown():
    table = Table(["metric", "value"], [["rho", "0.50"]])
    assert table._repr_markdown_() == "| metric | value |\n| --- | --: |\n| rho | 0.50 |"
    with pytest.raises(ValueError, match="rows: expected 2 cells each"):
        Table(["metric", "value"], [["rho"]])


def test_columns_of_numbers_are_set_to_the_right_and_words_to_the_left():
    table = Table(["", "mean", "interval", "verdict", "kept"], [["a", "0.5", ".4 [.3, .5]", "refuted", ""]])
    assert table._repr_markdown_().splitlines()[1] == "| --- | --: | --: | --- | --: |"


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"profile": "slow", "seed": 0}, ValueError, "profile: expected fast, laptop or paper, got 'slow'"),
        ({"profile": "fast", "seed": "1"}, TypeError, "seed: expected a whole number, got '1'"),
        ({"profile": "fast", "seed": True}, TypeError, "seed: expected a whole number, got True"),
        ({"profile": "fast", "seed": -1}, ValueError, "seed: expected 0 or more, got -1"),
        (
            {"profile": "fast", "seed": 0, "cells": ["profile = 1", '# Parameters\nprofle = "paper"\nseed = 1\n']},
            ValueError,
            "profle: expected parameters among profile, seed",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_name(parameters, error, message):
    with pytest.raises(error, match=message):
        start(**parameters)


def test_a_chapter_says_where_it_computes(capsys):
    assert start(profile="fast", seed=3, cells=['# Parameters\nprofile = "fast"']) in {"cpu", "cuda"}
    assert capsys.readouterr().out.startswith("profile fast, seed 3, device ")


def test_a_folded_table_stands_in_a_block_of_its_own():
    table = Table(["metric", "value"], [["rho", "0.50"]], folded="The numbers")
    opening, body, closing = table._repr_markdown_().split("\n\n")
    assert opening == "<details><summary>The numbers</summary>"
    assert (body, closing) == (Table(table.header, table.rows)._repr_markdown_(), "</details>")


def test_means_in_the_order_of_the_titles_with_what_was_published():
    chance = np.random.default_rng(0)
    rows = pd.DataFrame(
        [
            {"attack": attack, "epsilon": e, "spearman": chance.random(), "labels_kept": i > 0}
            for e in (8.0, 1.0)
            for attack in ("top_k", "random", "walk")
            for i in range(1 if attack == "walk" else 4)
        ]
    )
    theirs = pd.DataFrame([{"attack": "top_k", "epsilon": 8, "metric": "spearman", "value": 0.25}])
    table = means(rows, ["attack", "epsilon"], ["spearman"], digits={"spearman": 3}, published=theirs)
    assert table.header == ["", "rank correlation", "n", "kept"]
    names = ["one draw of random signs, 1/255", "one draw of random signs, 8/255", "top-k, 1/255", "top-k, 8/255"]
    assert [row[0] for row in table.rows] == [*names, "walk, 1/255", "walk, 8/255"]
    here = rows.query("attack == 'top_k' and epsilon == 8").spearman
    assert table.rows[3][1:] == [f"{interval(*mean_interval(here), 3)} (.25)", "4", "75%"]
    alone = rows.query("attack == 'walk' and epsilon == 1").spearman.item()
    assert table.rows[4][1:] == [f"{alone:.3f}"[1:], "1", "0%"]


def test_shares_are_written_as_the_paper_writes_them():
    assert interval(0.423, -0.05, 1.0) == ".42 [-.05, 1.00]"
    assert interval(34.98, 10.05, 38.96, 1) == "35.0 [10.1, 39.0]"


def test_the_table_that_closes_a_chapter_is_the_ledgers():
    table, by_id = ledger("H1", "I3b"), {claim.id: claim for claim in LEDGER}
    for row, name in zip(table.rows, ("H1", "I3b"), strict=True):
        found = judge(claim := by_id[name])
        section = default_slugify(heading(found))
        assert row[0].startswith(f"[{claim.id}](../book/claims.md#{section}): ")
        assert row[2].startswith(sentence(found))
        assert row[3] == as_markdown(found.verdict)
    (decisive,) = found.finding.refuted()
    assert f"{decisive.name}: {shown(decisive)} ({decisive.threshold} refuted)" in table.rows[1][2]
    assert "; another network (n = " in ledger("O2").rows[0][2]


def test_the_closing_table_follows_the_results(tmp_path):
    assert ledger("I4", folder=tmp_path).rows[0][2:] == ["Nothing is stored yet.", "*not yet tested*"]
    for end in ("csv", "json"):
        shutil.copy(store.results_folder() / f"mislabel-laptop.{end}", tmp_path)
    assert ledger("I4", folder=tmp_path).rows == ledger("I4").rows
    with pytest.raises(ValueError, match=r"ids: expected some of \['M1', .*\], got \['Z9'\]"):
        ledger("Z9")
