"""How far few steps get, by the course of the step and of beta; what 300 of the paper's gain is in `paper_sweep`.

The courses were compared on photographs 72 to 79 of the draw, and the best was then tried on the first ones.
"""

from dataclasses import replace
from functools import partial

from fragility.study.attacks import paper_sweep
from fragility.study.attacks.attack_sweep import BOTH, DEEPLIFT, GRADIENT, SQUEEZENET
from fragility.study.attacks.sweep import Sweep, SweepProfile
from fragility.study.piece import Columns

COLUMNS: Columns = {
    **paper_sweep.COLUMNS,
    "first_beta": (float, "sharpness of the attack's softplus at the first step"),
    "last_beta": (float, "at the last step"),
}

_linear = partial(Sweep, attacks=BOTH, methods=GRADIENT, schedule="linear", iterations=40, betas=(1 / 8, 1.0), batch=8)
_quarter = partial(_linear, setup="squeezenet", start=72, images=80, betas=(1 / 4, 1.0))
_eighth = partial(_quarter, betas=(1 / 8, 1.0))
_chosen = partial(_linear, setup="squeezenet", images=16)
_EIGHT = {share: {8.0: 8.0 * share} for share in (1 / 2, 1 / 4, 1 / 8, 1 / 16)}
_TWO = {share: {2.0: 2.0 * share} for share in (1 / 4, 1 / 8)}
PROFILES = {
    "fast": SweepProfile(
        setups=paper_sweep.PROFILES["fast"].setups,
        sweeps=(_linear(setup="digits", sizes={51.0: 51.0 / 8}, iterations=6, images=4, batch=4),),
    ),
    # A minute and a half of one core for every forty steps of eight photographs, with both attacks.
    "laptop": SweepProfile(
        setups={"squeezenet": SQUEEZENET},
        sweeps=(
            *(_quarter(sizes=_EIGHT[share]) for share in _EIGHT),
            *(_eighth(sizes=_EIGHT[share]) for share in (1 / 4, 1 / 8)),
            _quarter(sizes=_EIGHT[1 / 8], betas=(1 / 16, 1.0)),
            _chosen(sizes=_EIGHT[1 / 8]),
            _chosen(sizes=_EIGHT[1 / 8], iterations=100, attacks=("mass_center",)),
            _chosen(sizes=_TWO[1 / 8]),
            _chosen(sizes=_TWO[1 / 8], iterations=100, attacks=("mass_center",)),
            _chosen(sizes=_EIGHT[1 / 8], methods=DEEPLIFT, images=8),
            _chosen(sizes=_EIGHT[1 / 8], betas=(1 / 4, 1.0)),
            *(_quarter(sizes=_TWO[share]) for share in _TWO),
            _eighth(sizes=_TWO[1 / 8]),
            _eighth(sizes={8.0: 0.5, 2.0: 0.5}, iterations=300, schedule="constant", betas=(1.0, 1.0)),
        ),
    ),
}
STUDY = replace(paper_sweep.STUDY, columns=COLUMNS, profiles=PROFILES)
