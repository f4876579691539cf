"""All studies by name; the other modules of the machinery know none."""

from fragility.study.attacks import attack_sweep, cifar_sweep, few_steps, paper_sweep, sensitivity, surrogate_fidelity
from fragility.study.curvature import angles, dimension, influence_angles
from fragility.study.defenses import defense_table, fashion_table
from fragility.study.influence import depth, influence_attack, leave_one_out, mislabel, poisoning
from fragility.study.interpretable import (
    accuracy,
    card,
    compas,
    counterfactuals,
    disagreement,
    race,
    rule_lists,
)
from fragility.study.piece import Study

STUDIES: dict[str, Study] = {
    module.__name__.rpartition(".")[2]: module.STUDY
    for module in (
        attack_sweep, cifar_sweep, few_steps, paper_sweep, sensitivity, surrogate_fidelity,
        angles, dimension, influence_angles,
        influence_attack, leave_one_out, mislabel, poisoning, depth,
        defense_table, fashion_table,
        accuracy, card, compas, counterfactuals, disagreement, race, rule_lists,
    )
}  # fmt: skip


def find(study: str, profile: str | None = None) -> Study:
    """Look a study up; ValueError if there is no such study, or it has no such profile."""
    if study not in STUDIES:
        raise ValueError(f"study: expected one of {', '.join(STUDIES)}, got {study!r}")
    if profile is not None and profile not in STUDIES[study].profiles:
        raise ValueError(f"profile: expected one of {', '.join(STUDIES[study].profiles)}, got {profile!r}")
    return STUDIES[study]
