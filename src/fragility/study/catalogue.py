"""All studies by name; the other modules of the machinery know none."""

from fragility._checks import check_choice
from fragility.study.attacks import attack_sweep, paper_sweep, surrogate_fidelity
from fragility.study.curvature import angles, dimension, influence_angles
from fragility.study.defenses import defense_table
from fragility.study.influence import (
    depth,
    influence_attack,
    leave_one_out,
    leave_sets_out,
    manipulated_influence,
    mislabel,
    poisoning,
)
from fragility.study.interpretable import (
    accuracy,
    card,
    compas,
    counterfactuals,
    disagreement,
    race,
    rule_lists,
)
from fragility.study.memorisation import memorised_maps, minimum_norm, randomisation
from fragility.study.piece import Study

STUDIES: dict[str, Study] = {
    module.__name__.rpartition(".")[2]: module.STUDY
    for module in (
        attack_sweep, paper_sweep, surrogate_fidelity,
        angles, dimension, influence_angles,
        influence_attack, leave_one_out, leave_sets_out, manipulated_influence, mislabel, poisoning, depth,
        defense_table,
        accuracy, card, compas, counterfactuals, disagreement, race, rule_lists,
        memorised_maps, minimum_norm, randomisation,
    )
} | {
    "cifar_sweep": attack_sweep.CIFAR, "sensitivity": attack_sweep.SENSITIVITY, "few_steps": paper_sweep.FEW_STEPS,
    "fashion_table": defense_table.FASHION,
}  # fmt: skip


def find(study: str, profile: str | None = None) -> Study:
    """Look a study up; ValueError if there is no such study, or it has no such profile."""
    check_choice("study", study, STUDIES)
    if profile is not None:
        check_choice("profile", profile, STUDIES[study].profiles)
    return STUDIES[study]
