"""The studies of chapter 8: the counts against the file, the published list, and coefficients against formulas."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from fragility.study.interpretable import accuracy, card, compas, counterfactuals, disagreement, race, rule_lists
from fragility.study.interpretable.compas import literals, people
from fragility.study.interpretable.rule_list import optimal_rule_list
from fragility.study.interpretable.rules import PUBLISHED


def test_the_counts_are_those_that_the_code_of_corels_states() -> None:
    table = people()
    assert table.age.value_counts().to_dict() == {"18-20": 220, "21-22": 623, "23-25": 1018, "26-45": 3890, ">45": 1463}
    assert table.priors.value_counts().to_dict() == {"=0": 2150, "=1": 1397, "2-3": 1408, ">3": 2259}
    for name, count in (("felonies", 282), ("misdemeanors", 415), ("crimes", 973)):
        assert (table[f"juvenile {name}"] == ">0").sum() == count


def test_people_are_as_many_as_were_counted() -> None:
    cells = pd.DataFrame([dict.fromkeys(compas.FEATURES, value) for value in "ab"])
    cells = cells.assign(people=[5, 2], again=[3, 0], high=[2, 1], high_again=[1, 0])
    counted = people(cells).groupby(["sex", "again", "high"]).size().to_dict()
    assert counted == {
        ("a", True, True): 1, ("a", False, True): 1, ("a", True, False): 2, ("a", False, False): 1,
        ("b", False, True): 1, ("b", False, False): 1,
    }  # fmt: skip


def test_rules_of_one_and_two_values_apply_where_both_hold() -> None:
    table = people()
    rules = literals(table, together=2)
    assert (len(literals(table)), len(rules)) == (19, 156)
    male, young = table.sex == "Male", table.age == "21-22"
    assert np.array_equal(rules["sex Male and age 21-22"], male & young)
    assert min(applies.mean() for applies in rules.values()) > 0.005


def test_no_model_of_the_bins_is_more_accurate_than_the_ceiling() -> None:
    table = people()
    most = table.groupby(list(compas.FEATURES)).again.agg(["sum", "size"])
    ceiling = np.maximum(most["sum"], most["size"] - most["sum"]).sum() / len(table)
    found = optimal_rule_list(literals(table), table.again.to_numpy(), 0.005)
    assert (table.high == table.again).mean() == pytest.approx(0.654, abs=5e-4)
    assert 0.654 < (found.predict(literals(table)) == table.again).mean() < ceiling == pytest.approx(0.685, abs=5e-4)


def test_a_draws_row_is_the_list_of_those_people() -> None:
    plan = rule_lists.STUDY.plan(rule_lists.STUDY.profiles["fast"])
    rows, table = plan.compute(plan.pieces[-1]), people()
    rules, truth = literals(table), table.again.to_numpy()
    predicted = []
    for number, row in enumerate(rows):
        chosen = (np.random.default_rng(1000 + number).random(7214) * 7214).astype(int)
        # The same search among people in the order of the table: a list does not depend on it.
        chosen.sort()
        found = optimal_rule_list({name: applies[chosen] for name, applies in rules.items()}, truth[chosen], 0.01)
        predicted.append(found.predict(rules))
        assert row["list"] == str(found).replace("\n", "; ")
        assert row["accuracy"] == (predicted[-1] == truth).mean()
        assert row["gap"] == 0
    assert rows[0]["differs"] == (predicted[0] != predicted[1]).mean()
    assert rows[1]["differs"] is None


def test_every_fold_is_tested_once_by_every_model() -> None:
    plan = accuracy.STUDY.plan(accuracy.STUDY.profiles["fast"])
    rows = pd.DataFrame(plan.compute(plan.pieces[0]))
    counted = rows.groupby("model").agg(people=("test_people", "sum"), folds=("image", "nunique"))
    assert set(map(tuple, counted.to_numpy())) == {(150, 10)}
    assert set(counted.index) == set(accuracy.MODELS) - {"rule list"}
    assert rows.accuracy.groupby(rows.model).mean().min() > 0.9  # an easy table


def test_bins_remove_a_race_term_that_a_bend_made_and_leave_a_true_one() -> None:
    draw = np.random.default_rng(0)
    age, group = draw.integers(18, 70, 4000), draw.random(4000) < 0.5
    age = np.where(group, np.minimum(age, 35), age)  # one group is younger, and the score falls faster in youth
    table = pd.DataFrame({"race": np.where(group, "African-American", "Caucasian"), "age": age})
    table = table.assign(priors_count=draw.integers(0, 25, 4000))
    for true in (0.0, 1.0):
        score = 5 + np.maximum(0, 30 - age) + np.minimum(table.priors_count, 3) + true * group
        found = race.coefficients(table.assign(decile_score=score))
        assert found["binned"] == pytest.approx(true, abs=1e-9)
        assert abs(found["linear"] - true) > 0.2
        assert found["alone"] == pytest.approx(score[group].mean() - score[~group].mean())


def outcomes_of_a_card(seed: int, people: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Five features, two of which decide the risk with 2 and -1 points."""
    draw = np.random.default_rng(seed)
    x = (draw.random((people, 5)) < 0.4).astype(float)
    return x, draw.random(people) < 1 / (1 + np.exp(-(2 * x[:, 1] - x[:, 3])))


def loss_of(score: np.ndarray, y: np.ndarray) -> float:
    """The least logistic loss of a risk that grows with a score, by another library."""
    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(score.reshape(len(y), -1), y)
    risk = model.predict_proba(score.reshape(len(y), -1))[:, 1]
    return float(-np.log(np.where(y, risk, 1 - risk)).mean())


def test_logistic_regression_on_counts_is_that_of_the_people() -> None:
    x, y = outcomes_of_a_card(0)
    kinds, kind = np.unique(x, axis=0, return_inverse=True)
    loss, weights = card.fit(kinds, np.bincount(kind.ravel(), y), np.bincount(kind.ravel()).astype(float))
    other = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(x, y)
    # The ridge moves a weight of order 1 by the order of a millionth over the curvature, here above .05.
    assert weights == pytest.approx([*other.coef_[0], other.intercept_[0]], abs=1e-3)
    assert loss == pytest.approx(loss_of(x, y), abs=1e-6)


def test_no_card_of_two_features_is_much_better() -> None:
    for seed in range(2):
        x, y = outcomes_of_a_card(seed)
        found = card.score_card(x, y, 2, most=3)
        scores = (
            x[:, pair] @ np.array(points)
            for pair in map(list, combinations(range(5), 2))
            for points in product(range(1, 4), [-3, -2, -1, 1, 2, 3])  # the other signs turn the score round
        )
        best = min(loss_of(score, y) for score in scores)
        assert best - 1e-6 <= found.loss <= best + 1e-3
        assert set(found.points) == {1, 3}
        assert found.loss == pytest.approx(loss_of(found.score(x), y), abs=1e-6)
        assert (found.score(x) == sum(points * x[:, j] for j, points in found.points.items())).all()


def test_a_cards_row_is_of_a_fold_that_it_did_not_see() -> None:
    plan = card.STUDY.plan(card.STUDY.profiles["fast"])
    rows = pd.DataFrame(plan.compute(plan.pieces[0]))
    assert rows.test_people.sum() == 7214
    assert (rows.test_people + rows.train_people == 7214).all()
    assert rows.card.str.count(": ").max() <= 2
    assert 0.6 < rows.auc.min() < rows.logistic_auc.max() < 0.8


def test_shortest_counterfactuals_are_those_that_a_loop_finds() -> None:
    cells = counterfactuals.possible(people())
    assert len(cells) == 2 * 5 * 5 * 4 * 2
    says = np.random.default_rng(0).random(len(cells)) < 0.7
    records, none = cells.to_dict("records"), 0
    for at in range(0, len(cells), 7):
        by_changes: dict[int, list[int]] = {}
        for i, other in enumerate(records):
            if all(other[name] == records[at][name] for name in ("sex", "age")) and says[i] != says[at]:
                changes = sum(other[name] != records[at][name] for name in compas.FEATURES)
                by_changes.setdefault(changes, []).append(i)
        assert counterfactuals.shortest(cells, says, at) == by_changes[min(by_changes)]
    assert counterfactuals.shortest(cells, np.full(len(cells), True), none) == []


def test_a_counterfactuals_row_is_of_somebody_whom_the_list_flags() -> None:
    plan = counterfactuals.STUDY.plan(counterfactuals.STUDY.profiles["fast"])
    rows = pd.DataFrame(plan.compute(plan.pieces[2]))
    assert len(rows) == 20
    assert set(rows.model) == {"rule list"}
    found = rows[rows.ways > 0]
    assert found.changes.between(1, 5).all()
    assert found.survival.between(0, 1).all()
    assert rows[rows.ways == 0].survival.isna().all()


def test_line_and_order_explain_a_linear_model_by_its_weights() -> None:
    torch.manual_seed(0)
    model, rows, middle = nn.Linear(6, 2).double().eval(), torch.rand(5, 6).double(), torch.rand(6).double()
    labels, weights = torch.tensor([0, 1, 1, 0, 1]), model.weight.detach()
    with torch.no_grad():
        torch.testing.assert_close(disagreement.lime(model, rows, labels, samples=50), weights[labels])
        values = disagreement.shapley(model, rows, labels, middle, orders=3)
    torch.testing.assert_close(values, weights[labels] * (rows - middle))


def test_shapley_values_are_means_over_all_orders() -> None:
    def product_of_two(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)

    rows, labels = torch.tensor([[2.0, 3.0, 5.0]]), torch.tensor([0])
    values = disagreement.shapley(product_of_two, rows, labels, torch.zeros(3), orders=400)  # type: ignore[arg-type]
    # Each of the two adds all 6 where it comes second: half of the orders, of 400 within 5 standard deviations.
    assert values[0].tolist() == pytest.approx([3, 3, 0], abs=6 * 5 * 0.5 / 20)
    assert values.sum().item() == pytest.approx(6)


def test_networks_differ_by_seed_and_see_no_held_out_row() -> None:
    one, two = disagreement.diagnosis(0), disagreement.diagnosis(1)
    assert torch.equal(one.rows, two.rows)
    assert not torch.equal(one.model(one.rows), two.model(two.rows))
    assert (one.labels == one.truth).double().mean() > 0.9
    assert one.rows.min() >= 0
    assert one.rows.max() <= 1
    assert not (one.rows[:, None] == one.middle).all(2).any()


def test_agreement_is_counted_feature_by_feature() -> None:
    plan = disagreement.STUDY.plan(disagreement.STUDY.profiles["fast"])
    table = pd.DataFrame(plan.compute(plan.pieces[0]))
    assert table.groupby("networks").size().to_dict() == {"one": 10 * 200, "two seeds": 5 * 200}
    assert (table.signed <= table.agreement).all()
    assert set((3 * table.agreement).round(9)) <= {0, 1, 2, 3}
    first = disagreement.diagnosis(1000, 20)
    found = {name: disagreement.METHODS[name](first)[3].tolist() for name in ("simple gradient", "LIME")}
    top = [set(sorted(range(30), key=lambda j: -abs(values[j]))[:3]) for values in found.values()]
    row = table[(table.image == "row 3") & (table.a == "simple gradient") & (table.b == "LIME")]
    assert row.agreement.item() == pytest.approx(len(top[0] & top[1]) / 3)


@pytest.mark.slow
def test_the_published_list_comes_out_of_the_public_file_rule_for_rule() -> None:
    file = compas.read_file()
    table, truth = compas.binned(file), (file.two_year_recid == 1).to_numpy()
    found = optimal_rule_list(literals(table, together=2), truth, 0.01)
    assert str(found).replace("\n", "; ") == PUBLISHED
    assert found.gap == 0
    assert found.objective == pytest.approx(0.36437, abs=5e-6)
