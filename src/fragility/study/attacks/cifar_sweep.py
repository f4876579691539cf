"""The attack sweep on CIFAR-10, with the paper's network for it [Ghorbani2019, Fig. 9]."""

from dataclasses import replace
from functools import partial

from fragility.study.attacks import attack_sweep
from fragility.study.attacks.attack_sweep import (
    BOTH,
    DEEPLIFT,
    GRADIENT,
    INTEGRATED,
    METHODS,
    NOISE,
    ONE_DRAW,
    PAPER_STEPS,
    STEPS,
    TARGETED,
    WALK,
)
from fragility.study.attacks.setup import Setup
from fragility.study.attacks.sweep import Sweep, SweepProfile

CIFAR = Setup(
    data="cifar10",
    data_options={"split": "test"},
    candidates=128,
    network="cifar_cnn",
    k=100,
    surrogate_beta=None,
    baseline=None,
)
# The most important pixels are the same share of the image as on ImageNet with k = 1000, for a comparison of the two.
K20 = replace(CIFAR, k=20)
_JPEG = ("cifar-jpeg80", "cifar-jpeg40")

_LARGE, _TWO = {8.0: 1.0}, {8.0: 1.0, 2.0: 0.5}
_noise = partial(Sweep, setup="cifar", attacks=NOISE, sizes=ONE_DRAW, images=64, batch=8)
_forty = partial(Sweep, setup="cifar", methods=GRADIENT, images=64, iterations=40, batch=8)
_twenty = partial(Sweep, setup="cifar", attacks=BOTH, iterations=20)
PROFILES = {
    "laptop": SweepProfile(
        setups={
            "cifar": CIFAR,
            "cifar-k20": K20,
            # How much do the results owe to the compression of the pictures?
            "cifar-jpeg80": replace(CIFAR, jpeg_quality=80),
            "cifar-jpeg40": replace(CIFAR, jpeg_quality=40),
        },
        sweeps=(
            _noise(methods=GRADIENT + DEEPLIFT),
            _noise(methods=INTEGRATED, evaluation_steps=20),
            _forty(attacks=BOTH, sizes=STEPS),
            _forty(attacks=TARGETED, sizes=_LARGE),
            _forty(attacks=WALK, sizes=_TWO),
            _twenty(methods=DEEPLIFT, sizes=_TWO, images=16, batch=8),
            _twenty(methods=INTEGRATED, sizes=_LARGE, images=8, batch=4, attack_steps=10),
            _noise(setup="cifar-k20", methods=GRADIENT),
            _forty(setup="cifar-k20", attacks=BOTH, sizes=_TWO),
            *(_noise(setup=name, methods=GRADIENT, sizes={8.0: None, 2.0: None}, images=32) for name in _JPEG),
            *(_forty(setup=name, attacks=BOTH, sizes=_LARGE, images=32) for name in _JPEG),
        ),
    ),
    "paper": SweepProfile(
        setups={"cifar": replace(CIFAR, candidates=1200), "cifar-k20": replace(K20, candidates=1200)},
        sweeps=tuple(
            Sweep(
                setup=name, attacks=attacks, methods=METHODS, sizes=sizes, images=750, batch=50, iterations=iterations
            )
            for name, climbs in (("cifar", BOTH + TARGETED + WALK), ("cifar-k20", BOTH))
            for attacks, sizes, iterations in ((NOISE, ONE_DRAW, 1), (climbs, PAPER_STEPS, 300))
        ),
    ),
}
STUDY = replace(attack_sweep.STUDY, profiles=PROFILES)
