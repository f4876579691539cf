"""The table of defenses on Fashion-MNIST at its published epsilon, 0.1, with fewer defenses at `laptop`."""

from dataclasses import replace

from fragility.study.defenses import defense_table
from fragility.study.defenses.defense_table import defenses

KEPT = ("natural", "adversarial", "ig_norm", "ig_sum_norm", "softplus", "discretized")
_LAPTOP = defenses(epsilon=0.1, step_size=0.03, iterations=5, steps=4, inner_steps=4)
_PAPER = defenses(epsilon=0.1, step_size=0.01, iterations=20, steps=50, inner_steps=10)

PROFILES = {
    "laptop": replace(
        defense_table.PROFILES["laptop"],
        data="fashion_mnist",
        epsilon=0.1,
        budgets=(1, 2),
        defenses={name: _LAPTOP[name] for name in KEPT},
    ),
    "paper": replace(defense_table.PROFILES["paper"], data="fashion_mnist", epsilon=0.1, defenses=_PAPER),
}
STUDY = replace(defense_table.STUDY, profiles=PROFILES)
