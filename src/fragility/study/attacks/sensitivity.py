"""Other choices: the attack sweep's attacks on the simple gradient, with one thing changed at a time."""

from dataclasses import replace
from typing import Any

from fragility.study.attacks import attack_sweep
from fragility.study.attacks.attack_sweep import BOTH, GRADIENT, NOISE, SQUEEZENET
from fragility.study.attacks.sweep import Sweep, SweepProfile


def _variants(*, candidates: int, images: int, batch: int, iterations: int, step_size: float) -> SweepProfile:
    plain = replace(SQUEEZENET, candidates=candidates)
    usual: dict[str, Any] = {"attacks": BOTH, "methods": GRADIENT, "sizes": {8.0: step_size}, "iterations": iterations}
    changes: dict[str, dict[str, Any]] = {
        "steps doubled": {"iterations": 2 * iterations},
        "steps adapted": {"sizes": {8.0: 8.0}, "schedule": "adaptive"},
        "beta 0.5": {},
        "beta 2": {},
        "central square": {},
        "epsilon 64": {"sizes": {64.0: 8.0}},
        "chosen by the metric": {"by_metric": True},
        # Steps of half a level do not survive in a file; the whole levels of the perturbations at 8 / 255 do.
        "8-bit file": {"sizes": {2.0: 0.5}, "rounded": True},
    }
    setups = dict.fromkeys(changes, plain) | {
        "beta 0.5": replace(plain, surrogate_beta=0.5),
        "beta 2": replace(plain, surrogate_beta=2.0),
        "central square": replace(plain, data_options={"crop": True}),
    }
    sweeps = [Sweep(setup=name, images=images, batch=batch, **(usual | change)) for name, change in changes.items()]
    noise: dict[str, Any] = {"attacks": NOISE, "sizes": {8.0: None, 2.0: None}, "iterations": 1}
    sweeps.append(Sweep(setup="central square", images=images, batch=batch, **(usual | noise)))
    return SweepProfile(setups=setups, sweeps=tuple(sweeps))


PROFILES = {
    "laptop": _variants(candidates=128, images=16, batch=4, iterations=40, step_size=1.0),
    "paper": _variants(candidates=1000, images=512, batch=32, iterations=300, step_size=0.5),
}
STUDY = replace(attack_sweep.STUDY, profiles=PROFILES)
