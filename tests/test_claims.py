"""The claims: every rule on rows that satisfy it and on rows that do not, and the page against the stored results."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from forge import forge
from fragility.cli import main
from fragility.study.claims import LEDGER, chapters, judge_all
from fragility.study.ledger import decide, page
from fragility.study.piece import Row
from fragility.study.store import results_folder, stored
from fragility.study.verdict import VERDICTS, Equality, Finding, at_least, at_most, exact, paired, positive, verdict

ROOT = Path(__file__).parents[1]
IDS = (
    "M1 A1 A2 A3 A4 A5 A6 A7 A8 I1 I2 I3 I4 I5 I6 H1 H2 H3 O1 O2 O3 D1 D2 D3 D4 D5 D6"  # the ledger
).split()
BY_ID = {claim.id: claim for claim in LEDGER}
METHODS, EPSILONS = ("simple_gradient", "deeplift", "integrated_gradients"), (1.0, 2.0, 4.0, 8.0)
METRICS = ("top_k_intersection", "spearman", "center_shift")
THEIRS = stored("published")
PUBLISHED = THEIRS.set_index(["method", "attack", "epsilon", "metric"])["value"].to_dict()


def found(name: str, **made: list[Row]) -> tuple[Finding, str]:
    tables = {study: pd.DataFrame(rows) for study, rows in made.items()}
    return decide(BY_ID[name], tables | {"published": THEIRS})


def outcome(name: str, **made: list[Row]) -> str:
    return found(name, **made)[1]


def jitter(n: int, size: float = 0.01) -> list[float]:
    """Numbers of mean 0 that differ."""
    return [size * (2 * i / (n - 1) - 1) for i in range(n)]


def sweep(n: int = 64, *, setup: str = "squeezenet", k: int = 1000, **change: Callable[[Row], float]) -> list[Row]:
    """What an experiment would store whose means are the published ones."""
    rows: list[Row] = []
    for method, attack, epsilon in product(METHODS, ("top_k", "mass_center", "random", "random_walk"), EPSILONS):
        cell = (method, "random" if attack == "random_walk" else attack, epsilon)
        for i, shift in enumerate(jitter(n)):
            row: Row = {"setup": setup, "method": method, "attack": attack, "epsilon": epsilon, "image": f"{i}"}
            row |= {"labels_kept": True, "k": k, **{name: PUBLISHED[*cell, name] + shift for name in METRICS}}
            row |= {"gain": 0.4 + shift if attack != "random_walk" else 0.1, "surrogate_gain": 0.5}
            row |= {"target_before": float("nan"), "target_after": float("nan")}
            rows.append(row | {name: function(row) for name, function in change.items()})
    return rows


def only(rows: list[Row], **where: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


class TestVerdict:
    def test_every_way(self) -> None:
        good = at_least("x", torch.tensor(jitter(64)) + 1, 0.5)
        bad, wrong = at_least("x", torch.tensor(jitter(64, 2.0)), 0), at_least("x", torch.tensor(jitter(64)), 0.5)
        assert (good.holds, bad.holds, bad.refuted, wrong.refuted) == (True, False, False, True)
        assert verdict(Finding([good], Equality(8, 10)), 64) == "reproduced"
        assert verdict(Finding([good]), 64) == "reproduced"
        assert verdict(Finding([good], Equality(7, 10)), 64) == "direction only"
        assert verdict(Finding([good], Equality(0, 0)), 64) == "direction only"
        assert verdict(Finding([good], doubts=["kept"]), 64) == "direction only"
        assert verdict(Finding([good, bad]), 64) == "not reproduced"
        assert verdict(Finding([good, bad, wrong]), 64) == "refuted"
        assert verdict(Finding([wrong]), 65) == "not yet tested"
        assert verdict(Finding(), 1) == "not yet tested"
        assert verdict(Finding([exact("e", 1e-12, 1e-10)], exact=True), 1) == "reproduced"
        assert verdict(Finding([exact("e", 1e-9, 1e-10)], exact=True), 1) == "refuted"
        assert verdict(Finding([exact("e", float("nan"), 1e-10)], exact=True), 1) == "refuted"

    def test_thresholds_are_for_the_whole_interval(self) -> None:
        values = torch.tensor(jitter(64, 1.0))
        for threshold, expected in ((-0.5, (True, False)), (0.0, (False, False)), (0.5, (False, True))):
            measure = at_least("x", values, threshold)
            assert (measure.holds, measure.refuted) == expected
            measure = at_most("x", -values, -threshold)
            assert (measure.holds, measure.refuted) == expected
        none = positive("x", torch.zeros(64))
        assert (none.holds, none.refuted) == (False, False)
        assert positive("x", torch.tensor([0.0] * 60 + [1.0] * 30)).holds
        few = at_least("x", torch.tensor([3.0]), 0)
        assert (few.n, few.holds, few.refuted) == (1, False, False)


def test_conditions_are_paired_image_by_image() -> None:
    rows = pd.DataFrame(
        {"image": [*"baba", "c"], "attack": ["x", "x", "y", "y", "x"], "value": [1.0, 2.0, 10.0, 20.0, 3.0]}
    )
    assert paired(rows, "value", "attack", ("y", "x")).tolist() == [[10.0, 20.0], [1.0, 2.0]]
    assert paired(rows, "value", "attack", ("x", "z")).shape == (2, 0)
    with pytest.raises(ValueError, match="duplicate"):
        paired(pd.concat([rows, rows]), "value", "attack", ("x", "y"))


class TestSweepRules:
    def test_the_published_means_against_the_rules(self) -> None:
        """The paper's own table: two of its claims fail by their rules, for one method each."""
        rows = sweep()
        verdicts = {name: outcome(name, attack_sweep=rows) for name in ("A1", "A2", "A3", "A4", "A5", "A8")}
        assert verdicts.pop("A2") == verdicts.pop("A3") == "refuted"
        assert set(verdicts.values()) == {"reproduced"}
        for name, guilty in (("A2", "integrated gradients"), ("A3", "DeepLIFT")):
            finding, _ = found(name, attack_sweep=rows)
            assert all(guilty in measure.name for measure in finding.measures if measure.refuted)
        gradient = only(rows, method="simple_gradient")
        for name in ("A2", "A3", "A5"):
            assert outcome(name, attack_sweep=gradient) == "direction only"

    @pytest.mark.parametrize("name", ["A1", "A2", "A3", "A4", "A5", "A7", "A8"])
    def test_too_few_images_and_none(self, name: str) -> None:
        assert outcome(name, attack_sweep=sweep(63)) == outcome(name) == "not yet tested"

    def test_noise(self) -> None:
        assert outcome("A1", attack_sweep=sweep(spearman=lambda row: row["spearman"] + 0.3)) == "refuted"
        assert outcome("A1", attack_sweep=sweep(spearman=lambda row: row["spearman"] - 0.3)) == "direction only"
        one_variant = [row for row in sweep() if row["attack"] != "random_walk"]
        assert outcome("A1", attack_sweep=one_variant) == "not yet tested"

    def test_the_other_pooling_and_lost_labels_make_a_verdict_doubtful(self) -> None:
        ceil = sweep(16, setup="squeezenet-ceil", spearman=lambda row: 0.9)
        assert outcome("A1", attack_sweep=[*sweep(), *ceil]) == "direction only"
        lost = sweep(labels_kept=lambda row: int(row["image"]) % 3 > 0)
        assert outcome("A1", attack_sweep=lost) == "direction only"

    def test_alike_enough_and_three_times(self) -> None:
        flat = sweep(top_k_intersection=lambda row: 0.1, spearman=lambda row: 0.1)
        assert outcome("A2", attack_sweep=flat) == "refuted"
        still = sweep(center_shift=lambda row: 2.0)
        assert outcome("A5", attack_sweep=still) == "refuted"
        fragile = sweep(spearman=lambda row: 0.2 if row["method"] == "integrated_gradients" else 0.3)
        assert outcome("A4", attack_sweep=fragile) == "refuted"

    def test_cifar(self) -> None:
        photographs = sweep()
        sturdy = sweep(setup="cifar-k20", k=20, top_k_intersection=lambda row: 0.5, center_shift=lambda row: 1.0)
        assert outcome("A6", attack_sweep=photographs, cifar_sweep=sturdy) == "reproduced"
        fragile = sweep(setup="cifar-k20", k=20, top_k_intersection=lambda row: 0.0, center_shift=lambda row: 16.0)
        assert outcome("A6", attack_sweep=photographs, cifar_sweep=fragile) == "refuted"
        assert outcome("A6", attack_sweep=photographs) == "not yet tested"

    def test_targeted(self) -> None:
        def rows(share: float) -> list[Row]:
            moved: Row = {"attack": "targeted", "target_before": 0.1, "target_after": 0.3}
            return [
                row | moved | {"labels_kept": int(str(row["image"])) < 64 * share}
                for row in only(sweep(), attack="top_k", method="simple_gradient")
            ]

        assert [outcome("A7", attack_sweep=rows(share)) for share in (0.9, 0.5, 0.1)] == [
            "reproduced",
            "not reproduced",
            "refuted",
        ]

    def test_the_surrogate(self) -> None:
        assert outcome("A8", attack_sweep=sweep(surrogate_gain=lambda row: 1.0)) == "refuted"
        assert outcome("A8", attack_sweep=sweep(gain=lambda row: 0.4)) == "not reproduced"
        assert outcome("A8", attack_sweep=sweep(8), cifar_sweep=sweep(setup="cifar")) == "reproduced"


OVERLAP = {"random": 1.0, "eq2": 0.2, "confidence": 0.5}


def influence(**spearman: float) -> list[Row]:
    return [
        {"image": f"{i}", "condition": name, "l2": 1e-2, "epsilon": 8.0, "labels_kept": True}
        | {"top5_overlap": OVERLAP[name], "spearman": value + shift, "spearman_float32": value + shift + 1e-6}
        for name, value in spearman.items()
        for i, shift in enumerate(jitter(200, 0.02))
    ]


class TestOtherRules:
    def test_influence(self) -> None:
        rows = influence(random=0.98, eq2=0.3, confidence=0.5)
        assert outcome("I1", influence_attack=rows) == "reproduced"
        assert outcome("I2", influence_attack=rows) == "not reproduced"
        rows = influence(random=0.98, eq2=0.3, confidence=0.2)
        assert outcome("I1", influence_attack=rows) == "refuted"
        some = [
            row | ({"spearman": -0.8, "spearman_float32": -0.8} if int(str(row["image"])) < 30 else {}) for row in rows
        ]
        assert outcome("I2", influence_attack=some) == "reproduced"
        apart = [row | {"spearman_float32": 0.0} for row in some]
        assert outcome("I2", influence_attack=apart) == "refuted"
        assert outcome("I1", influence_attack=rows[:300]) == "not yet tested"

    @pytest.mark.parametrize(
        ("r", "slope", "expected"),
        [(0.9, 1.0, "reproduced"), (0.9, 5.0, "direction only"), (0.5, 1.0, "refuted")],
    )
    def test_leave_one_out(self, r: float, slope: float, expected: str) -> None:
        rows: list[Row] = [
            {"r": r + shift, "slope": slope + shift, "r_corrected": 0.99, "slope_corrected": 1.0}
            for shift in jitter(30)
        ]
        assert outcome("I3", leave_one_out=rows) == expected

    @pytest.mark.parametrize(
        ("influence", "loss", "draws", "expected"),
        [
            (0.9, 0.8, 10, "reproduced"),
            (0.8, 0.8, 10, "not reproduced"),
            (0.8, 0.9, 10, "refuted"),
            (0.4, 0.3, 10, "refuted"),  # worse than chance
            (0.9, 0.8, 9, "not yet tested"),
        ],
    )
    def test_wrong_labels(self, influence: float, loss: float, draws: int, expected: str) -> None:
        areas = {"self_influence": influence, "loss": loss, "random": 0.5, "leverage": 0.6}
        signs = {"self_influence": 1, "loss": -1, "random": 1, "leverage": 1}
        rows: list[Row] = [
            {"order": order, "l2": 1e-2, "image": f"{i}", "auc": area + signs[order] * shift}
            for order, area in areas.items()
            for i, shift in enumerate(jitter(draws))
        ]
        assert outcome("I4", mislabel=rows) == expected
        assert outcome("I4", mislabel=only(rows, order="loss")) == "not yet tested"

    @pytest.mark.parametrize(
        ("flips", "images", "expected"),
        [
            (114, 200, "reproduced"),
            (60, 200, "direction only"),
            (190, 200, "direction only"),
            (0, 200, "not reproduced"),
            (114, 199, "not yet tested"),
        ],
    )
    def test_flipped_predictions(self, flips: int, images: int, expected: str) -> None:
        small: list[Row] = [
            {"image": f"{i}", "l2": 1e-2, "epsilon": 0.5, "flipped": i < flips}
            | {"confidence_before": 0.9, "confidence_after": 0.4 if i < flips else 0.8}
            for i in range(images)
        ]
        large = [row | {"epsilon": 8.0, "flipped": True} for row in small]
        assert outcome("I5", poisoning=[*small, *large]) == expected
        assert outcome("I5", poisoning=large) == "not yet tested"

    @pytest.mark.parametrize(
        ("by_depth", "by_decay", "ceiling", "expected"),
        [
            (0.2, 0.1, 1.0, "reproduced"),
            (-0.1, 0.1, 1.0, "refuted"),
            (0.2, 0.0, 1.0, "not reproduced"),
            (0.2, 0.1, 0.0, "refuted"),  # retraining noise explains more than all
        ],
    )
    def test_deeper_networks(self, by_depth: float, by_decay: float, ceiling: float, expected: str) -> None:
        rows: list[Row] = [
            {"image": f"{i}", "depth": depth, "decay": decay, "converged": True}
            | {"r": 0.95 - by_depth * depth - by_decay * weak + (1 if weak else -1) * shift}
            | {"ceiling": ceiling if depth and weak else 1.0}
            for depth in (0, 1, 2)
            for weak, decay in enumerate((1e-2, 1e-3, 1e-4))
            for i, shift in enumerate(jitter(10))
        ]
        assert outcome("I6", depth=rows) == expected
        assert outcome("I6", depth=only(rows, image="1")) == "not yet tested"
        if expected == "reproduced":
            assert outcome("I6", depth=[row | {"converged": row["depth"] == 0} for row in rows]) == "direction only"
            assert outcome("I6", depth=[row for row in rows if row["image"] != "1" or row["depth"]]) == "not yet tested"

    @pytest.mark.parametrize(("power", "expected"), [(0.5, "reproduced"), (0.0, "refuted"), (1.0, "refuted")])
    def test_dimension(self, power: float, expected: str) -> None:
        rows: list[Row] = [
            {"network": "neuron", "activation": "softplus", "arm": "fixed_epsilon", "dimension": d, "map_change": 0.0}
            | {"image": f"{i}", "relative_change": (1 + shift) * d**power}
            for d in (10, 100, 1000)
            for i, shift in enumerate(jitter(20))
        ]
        assert outcome("H2", dimension=rows) == expected
        assert outcome("H2", dimension=only(rows, image="1")) == "not yet tested"

    @pytest.mark.parametrize(
        ("angle", "own", "expected"),
        [(89.0, 0.0, "reproduced"), (89.0, 0.5, "direction only"), (60.0, 0.0, "refuted")],
    )
    def test_orthogonal(self, angle: float, own: float, expected: str) -> None:
        others = [0.1 + 0.01 * j for j in range(20)]
        rows: list[Row] = [
            {"setup": "cifar10", "angle": angle + shift, "block": f"{i // 20}"}
            | {"cos2_block": " ".join(f"{own if j == i % 20 else other:g}" for j, other in enumerate(others))}
            for i, shift in enumerate(jitter(200))
        ]
        assert outcome("O1", angles=rows) == outcome("O2", influence_angles=rows) == expected
        assert outcome("O1", angles=[row | {"setup": "digits"} for row in rows]) == "not yet tested"

    @pytest.mark.parametrize(
        ("misfit", "angle", "expected"),
        [(1e-9, 50.0, "reproduced"), (1.0, 50.0, "refuted"), (1e-9, 0.0, "refuted")],
    )
    def test_two_layers(self, misfit: float, angle: float, expected: str) -> None:
        rows: list[Row] = [
            {"network": "two_layer", "activation": "exp", "width": 2, "misfit": misfit, "angle": angle + abs(shift)}
            for shift in jitter(400)
        ]
        assert outcome("O3", dimension=rows) == expected

    def test_defenses(self) -> None:
        def rows(robust: float, accuracy: float, seeds: int = 5, images: int = 500) -> list[Row]:
            scores = {"natural": 0.3, "adversarial": 0.5, "ig_norm": robust, "ig_sum_norm": robust}
            scores |= {"discretized": robust, "softplus": robust}
            return [
                {"defense": name, "seed": seed, "budget": 1, "images": images, "kendall": score + shift}
                | {"natural_accuracy": accuracy if score == robust else 0.98, "top_k_intersection": score + 2 * shift}
                for name, score in scores.items()
                for seed, shift in enumerate(jitter(seeds) if seeds > 1 else [0.0])
            ]

        def ladder(step: float) -> list[Row]:
            """Two attacks on the same few images, the second with twice the budget."""
            few = [row | {"images": 100} for row in rows(0.7, 0.97, seeds=1)]
            return few + [row | {"budget": 2, "kendall": float(row["kendall"] or 0) - step} for row in few]

        for name in ("D2", "D6"):
            assert outcome(name, defense_table=rows(0.7, 0.97) + ladder(0.005)) == "reproduced"
            assert outcome(name, defense_table=rows(0.7, 0.97) + ladder(0.02)) == "direction only"
            assert outcome(name, defense_table=rows(0.7, 0.97)) == "direction only"  # nothing was doubled
            assert outcome(name, defense_table=rows(0.7, 0.9)) == "refuted"
            assert outcome(name, defense_table=rows(0.1, 0.97)) == "refuted"
            assert outcome(name, defense_table=rows(0.7, 0.97, seeds=4)) == "not yet tested"
            assert outcome(name, defense_table=rows(0.7, 0.97, images=499)) == "not yet tested"
            # Every data set counts that has enough seeds, and no other.
            both = {"defense_table": rows(0.7, 0.97) + ladder(0.005), "fashion_table": rows(0.7, 0.9)}
            assert outcome(name, **both) == "refuted"
            both["fashion_table"] = rows(0.7, 0.9, seeds=4)
            assert outcome(name, **both) == "reproduced"
        assert outcome("D2", defense_table=rows(0.4, 0.97)) == "refuted"


class TestLedger:
    def test_every_claim_is_there_once_and_every_rule_says_what_it_is(self) -> None:
        assert [claim.id for claim in LEDGER] == IDS
        for claim in LEDGER:
            assert claim.rule.__doc__
            assert claim.rule.__doc__.split(":")[0] == claim.id

    def test_identities_hold_and_the_printed_bound_does_not(self) -> None:
        exact_ones = {one.claim.id: one for one in judge_all(ROOT / "nowhere") if one.finding.exact}
        assert {name: one.verdict for name, one in exact_ones.items()} == dict.fromkeys(
            ("M1", "H1", "H3", "D1", "D3", "D4", "D5"), "reproduced"
        ) | {"D1": "refuted"}
        assert "no violation" in exact_ones["D1"].finding.notes[0]
        assert "0.0625" not in page(list(exact_ones.values()), [])

    def test_without_results_nothing_else_is_tested(self, tmp_path: Path) -> None:
        rest = [one for one in judge_all(tmp_path) if not one.finding.exact]
        assert {one.verdict for one in rest} == {"not yet tested"}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for path in results_folder().glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_changed_table_changes_the_verdict(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verdicts() -> dict[str, str]:
        assert main(["claims", "--results", str(copied)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line[:2]: line[4:19].strip() for line in lines if line[:2] in IDS}

    before = verdicts()
    assert list(before) == IDS
    assert (before["H2"], before["O3"]) == ("reproduced", "reproduced")
    forge("dimension", "laptop", copied, "relative_change", lambda text: "0.01", network="neuron")
    after = verdicts()
    assert after["H2"] == "refuted"
    forge("dimension", "laptop", copied, "angle", lambda text: "0.1", network="two_layer")
    last = verdicts()
    assert last["O3"] == "refuted"
    assert {name: text for name, text in before.items() if name not in ("H2", "O3")} == {
        name: text for name, text in last.items() if name not in ("H2", "O3")
    }


def test_the_page_is_what_the_results_say() -> None:
    judged = judge_all()
    text = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    # If this fails the results or the chapters have changed since: run `fragility claims --write`.
    assert text == page(judged, chapters(ROOT))
    for one in judged:
        assert f"## {one.claim.id}: {one.verdict}" in text
        assert one.verdict in VERDICTS
