"""What opens and closes a chapter, and its tables."""

import shutil

import pytest

from fragility.chapter import Table, interval, ledger, start
from fragility.study import store
from fragility.study.claims import LEDGER, shown
from fragility.study.evidence import Results, verdict


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


def test_the_table_that_closes_a_chapter_is_the_ledgers():
    table = ledger("H1", "I3", tables=["leave_one_out-laptop"])
    claims = [claim for claim in LEDGER if claim.id in {"H1", "I3"}]
    findings = [claim.rule(Results()) for claim in claims]
    verdicts = {claim.id: verdict(found, claim.needed) for claim, found in zip(claims, findings, strict=True)}
    assert [row[3] for row in table.rows] == [f"*{verdicts[name]}*" for name in ("H1", "I3")]
    for row, name in zip(table.rows, ("H1", "I3"), strict=True):
        section = f"{name} {verdicts[name]}".lower().replace(" ", "-")  # the heading, as MyST and GitHub slug it
        assert row[0].startswith(f"[{name}](../book/claims.md#{section}): ")
    failing = [measure for found in findings for measure in found.measures if not measure.holds]
    decisive = next((measure for measure in failing if measure.refuted), failing[0])
    assert f"{decisive.name}: {shown(decisive)} (misses {decisive.threshold})" in table.rows[1][2]


def test_shares_are_written_as_the_paper_writes_them():
    cell = {"a": 0.423, "a_low": -0.05, "a_high": 1.0, "b": 34.98, "b_low": 10.05, "b_high": 38.96}
    assert interval(cell, "a") == ".42 [-.05, 1.00]"
    assert interval(cell, "b", 1) == "35.0 [10.1, 39.0]"


def test_the_closing_table_follows_the_results(tmp_path):
    assert ledger("I4", folder=tmp_path).rows[0][2:] == ["nothing stored yet", "*not yet tested*"]
    for end in ("csv", "json"):
        shutil.copy(store.results_folder() / f"mislabel-laptop.{end}", tmp_path)
    assert (
        ledger("I4", folder=tmp_path, tables=["mislabel-laptop"]).rows == ledger("I4", tables=["mislabel-laptop"]).rows
    )


def test_the_closing_table_reads_no_table_that_its_page_does_not_name():
    with pytest.raises(ValueError, match=r"tables: expected 'mislabel-laptop' among them, got \['depth-laptop'\]"):
        ledger("I4", tables=["depth-laptop"])
    with pytest.raises(ValueError, match=r"ids: expected some of \['M1', .*\], got \['Z9'\]"):
        ledger("Z9")
