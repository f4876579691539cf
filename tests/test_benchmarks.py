"""The benchmark's own functions on tiny inputs; no test looks at how long anything takes."""

import math
import re
import sys
from dataclasses import astuple, fields
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import floor, harness, page, peers, run  # noqa: E402
from benchmarks.harness import Row  # noqa: E402

from fragility.attribution import importance, simple_gradient  # noqa: E402
from fragility.objective import top_k  # noqa: E402
from fragility.surrogate import softplus  # noqa: E402

SESSION = {"started": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef+changes", "device": "cpu (some)"}
SESSION |= {"threads": 1, "python": "3.11", "packages": {"torch": "2"}, "quick": True, "load": 0.5}


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (4.0, "<= 4.0", "met"),
        (4.1, "<= 4.0", "missed"),
        (1.5, ">= 1.5", "met"),
        (1.4, ">= 1.5", "missed"),
        (math.inf, "<= 20", "missed"),
        (math.nan, "<= 4.0", "not measured here"),
        (7.0, "", "-"),
    ],
)
def test_verdicts(value: float, target: str, verdict: str) -> None:
    assert Row("floor", "x", value, "s", target).verdict == verdict


def test_functions_take_turns_the_first_round_does_not_count_and_the_base_has_more() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = harness.interleaved(functions, 2)
    assert calls == list("abcabcabc")
    assert all(0 <= seconds < math.inf for seconds in times.values())
    calls.clear()
    harness.interleaved(functions, 1, base="a")
    assert calls == list("aabac" * 2)


def test_peers_are_compared_by_their_numbers() -> None:
    a, b = torch.tensor([1.0, 4.0]), torch.tensor([1.0, 5.0])
    speed, difference = peers.compared("them", "it", lambda: a, lambda: b, 1, "", "<= 0.1")
    assert speed.value > 0
    assert difference.value == pytest.approx(0.2)
    assert difference.verdict == "missed"


def test_the_attack_step_is_the_derivative_of_the_surrogates_objective(every_relu: nn.Module) -> None:
    x = torch.rand(1, 3, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels, reference = torch.tensor([1]), torch.rand(1, 40, 40, dtype=torch.float64)

    slope = floor.attack_step(every_relu, x, labels, simple_gradient, reference)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))

    def value(t: float) -> float:
        with softplus(1.0):
            maps = importance(simple_gradient(every_relu, x + t * direction, labels))
        return top_k(floor.K)(maps, reference).item()

    finite = (value(1e-6) - value(-1e-6)) / 2e-6
    assert (slope * direction).sum().item() == pytest.approx(finite, rel=1e-5)


def test_groups_are_stored_apart_and_make_the_page(tmp_path: Path) -> None:
    first = [
        Row("floor", "step, slow", 5.25, "forwards", "<= 4.0", "note, with comma", 7.5),
        Row("floor", "no", math.nan, "s"),
    ]
    run.store(tmp_path, "peers", [Row("peers", "theirs", 1.5, "x", ">= 1.0")], SESSION | {"seconds": {"peers": 1.0}})
    for seconds in (2.0, 3.0):
        run.store(tmp_path, "floor", first, SESSION | {"seconds": {"floor": seconds}})
    rows, sessions = page.read(tmp_path)
    assert rows.name.tolist() == ["step, slow", "no", "theirs"]
    assert tuple(rows.iloc[0])[:7] == astuple(first[0])
    assert rows.value.isna().tolist() == [False, True, False]
    assert [part["seconds"] for part in sessions] == [{"floor": 3.0}, {"peers": 1.0}]

    page.write(tmp_path, tmp_path / "speed.md")
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| step, slow | 5.25 forwards | 7.50 | <= 4.0 | missed | note, with comma |" in text
    assert "| theirs | 1.50 x | >= 1.0 | met | - |" in text
    assert "2026-01-02, cpu (some), 1 thread(s)" in text
    assert "Which schedule" not in text
    assert "forty steps" not in text


def test_the_seconds_of_an_attack_are_those_of_its_parts() -> None:
    values = {name: 2.0 for step, look, _ in page.ATTACKS.values() for name in (step, look)}
    rows = pd.DataFrame([astuple(Row("floor", name, value, "forwards")) for name, value in values.items()])
    rows.columns = [field.name for field in fields(Row)]
    seconds = Row("floor", "forward, per image", 0.01, "s")
    rows.loc[len(rows)] = astuple(seconds)
    # 40 steps of 2 forwards with looks of 2 more, a hundredth of a second each, and 25 times that.
    assert "1.60 s on the simple gradient, 1.60 s on DeepLIFT, 40.0 s on integrated" in page.compose(
        rows, [], pd.DataFrame()
    )


def course(attack: str, schedule: str, iterations: int, gain: float, **columns: object) -> dict[str, object]:
    """A row of a table of attacks, of which 40 steps did half, and none of the first ten kept a label."""
    steps = {"course_steps": f"10 40 {iterations}", "course_objective": f"nan {gain / 2 - 1} {gain - 1}"}
    fixed = {"method": "simple_gradient", "attack": attack, "epsilon": 8, "objective": gain - 1, "gain": gain}
    return fixed | steps | {"schedule": schedule, "iterations": iterations} | columns


def test_gains_are_shares_of_what_the_papers_steps_gain_on_the_same_image(tmp_path: Path) -> None:
    paper, ours = [], []
    for image, size in enumerate((1.0, 2.0, 4.0)):
        paper.append(course("top_k", "constant", 300, 10 * size, image=image, step_size=0.5))
        beta = {"image": image, "step_size": 1.0, "first_beta": 0.125, "last_beta": 1.0}
        ours.append(course("top_k", "momentum", 100, 12 * size, **beta))
        ours.append(course("top_k", "momentum", 100, 99 * size, **(beta | {"first_beta": 0.25})))  # not the chosen one
    paper.append(course("top_k", "constant", 300, 5.0, image=9, step_size=0.5))  # an image of the other table alone
    for study, rows in (("paper_sweep", paper), ("few_steps", ours)):
        pd.DataFrame(rows).to_csv(tmp_path / f"{study}-laptop.csv")
    shares = page.courses(tmp_path)
    means = shares.groupby(["schedule", "step"]).share.agg(["mean", "min", "max"])
    assert means.index.tolist() == [("Algorithm 1", n) for n in (10, 40, 300)] + [
        ("annealed, 100", n) for n in (10, 40, 100)
    ]
    assert means["mean"].tolist() == pytest.approx([0, 0.5, 1, 0, 0.6, 1.2])
    assert means["min"].tolist() == pytest.approx(means["max"].tolist())
    (line,) = page.summary(shares)
    assert line == (
        "- simple gradient, top-k, 8/255, of 300 steps, 3 images: 100 steps, annealed: 1.20 [1.20, 1.20]; "
        "40 steps, Algorithm 1: 0.50 [0.50, 0.50]."
    )
    page.write(tmp_path, tmp_path / "speed.md")
    assert line in (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert (tmp_path / page.FIGURE).stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "-"), (math.inf, "never"), (5.0, "5.00"), (1e-9, "1.0e-09"), (0.0, "0.00"), (12345.6, "12346")],
)
def test_numbers(value: float, text: str) -> None:
    assert page.number(value) == text


def test_the_committed_page_shows_the_stored_rows() -> None:
    rows, sessions = page.read(ROOT / "results")
    shown = page.compose(rows, sessions, page.courses(ROOT / "results"))
    assert (ROOT / "book" / "speed.md").read_text(encoding="utf-8") == shown
    assert set(run.GROUPS) <= {group for part in sessions for group in part["seconds"]}
    assert all((ROOT / "book" / figure).exists() for figure in re.findall(r"```{figure} (\S+)", shown))


def test_a_table_of_more_than_twelve_rows_is_a_figure_with_the_table_folded_below(tmp_path: Path) -> None:
    rows = [Row("floor", f"step {i}", 2.0 + i, "forwards", "<= 5" if i else "") for i in range(12)]
    session = SESSION | {"seconds": {"floor": 1.0}}
    for found in (rows, [*rows, Row("floor", "memory", 1.2, "x")]):
        run.store(tmp_path, "floor", found, session)
        page.write(tmp_path, tmp_path / "speed.md")
        text = (tmp_path / "speed.md").read_text(encoding="utf-8")
        folded = len(found) > 12
        assert ("```{dropdown} All 13 numbers\n| what |" in text) == folded
        assert (tmp_path / page.BARS.format("floor")).exists() == folded
    axes = page.bars([*rows, Row("floor", "memory", 1.2, "x")]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.name for row in rows]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1.0 + i for i in range(12)])
    assert [bar.get_alpha() for bar in axes.patches] == [1.0] * 4 + [0.4] * 8
