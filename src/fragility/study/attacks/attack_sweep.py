"""How far attacks and noise move importance maps: methods x attacks x epsilon x images [Ghorbani2019, Fig. 2 and 3].

The class explained is the prediction; all images are classified correctly by the network under test. An image that no
iterate leaves with its label counts as unchanged (1, 1, 0 pixels): the means are intention-to-treat.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from fragility.iterate import Iterate
from fragility.network import CAFFE_MEAN
from fragility.study.attacks.setup import Setup, Subject
from fragility.study.attacks.sweep import Sweep, SweepProfile, Trial, conditions, cost, metrics, prepare_sweeps
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance

GRADIENT, DEEPLIFT, INTEGRATED = ("simple_gradient",), ("deeplift",), ("integrated_gradients",)
METHODS = GRADIENT + DEEPLIFT + INTEGRATED
NOISE, WALK, BOTH, TARGETED = ("random",), ("random_walk",), ("top_k", "mass_center"), ("targeted",)
EPSILONS = (8.0, 2.0, 4.0, 1.0)  # the paper's
ONE_DRAW = dict.fromkeys(EPSILONS)
PAPER_STEPS = dict.fromkeys(EPSILONS, 0.5)
STEPS = {**PAPER_STEPS, 8.0: 1.0}  # few steps of the paper's size would not reach the largest epsilon

COLUMNS: Columns = {
    "image": (str, "file name, or row of the data set"),
    "label": (int, "the class, predicted and true; it is the one explained"),
    "class_name": (str, "its name"),
    "setup": (str, "network and data, see parameters"),
    "network": (str, "the network under test"),
    "pooling": (str, "how max-pooling treats an incomplete last window"),
    "method": (str, "the attribution"),
    "attack": (
        str,
        "random: one draw; random_walk: the best of P random steps, by D of top_k; else Algorithm 1; "
        "targeted: into the quadrant away from the centre of mass",
    ),
    "epsilon": (float, "radius of the L-inf ball, of 255"),
    "step_size": (float, "alpha, of 255"),
    "iterations": (int, "P"),
    "adaptive": (bool, "whether the attack accumulated gradients and halved its steps"),
    "attack_steps": (int, "M of integrated gradients while attacking and choosing the best iterate"),
    "evaluation_steps": (int, "M of integrated gradients in the metrics"),
    "surrogate_beta": (float, "sharpness of the softplus that the attack's gradient goes through"),
    "k": (int, "how many pixels count as the most important"),
    "seed": (int, "of the drawn images and the random perturbations"),
    "labels_kept": (bool, "whether some iterate kept the prediction; if not, the row is that of the unchanged image"),
    "iteration": (int, "which iterate is the best; 0 if none was kept"),
    "objective": (float, "D of the best iterate; none for random"),
    "top_k_intersection": (float, "share of the k most important pixels in common, by the network itself"),
    "spearman": (float, "rank correlation of the maps"),
    "center_shift": (float, "distance of the centres of mass, in pixels"),
    "confidence_before": (float, "softmax probability of the label for the original image"),
    "confidence_after": (float, "the same for the best iterate"),
    "first_top_k_intersection": (float, "after the first step alone, label kept or not (random: of the draw)"),
    "first_spearman": (float, "the same"),
    "first_center_shift": (float, "the same"),
    "gain": (float, "D of the best iterate less D of the original, on the network itself; none for random"),
    "surrogate_gain": (float, "the same on the softplus surrogate, its own original map being the reference"),
    "target_before": (float, "targeted: the original's importance inside the region, a quadrant; else none"),
    "target_after": (float, "the same for the best iterate"),
}
_ENDS = ("labels_kept", "objective", "top_k_intersection", "spearman", "confidence_after", "gain", "surrogate_gain")
TOLERANCE = Tolerance(
    within={"first_top_k_intersection": 0.02, "first_spearman": 0.02, "first_center_shift": 0.5},
    means=dict.fromkeys(_ENDS, 0.02) | {"labels_kept": 0.05, "iteration": 2, "center_shift": 0.5, "target_after": 0.02},
)


def pieces(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Name every condition, without later additions that are not set, so older pieces keep their names."""
    unset = {"by_metric": False, "rounded": False, "jpeg_quality": None}
    for sweep, piece in conditions(profile, subjects):
        own = {"adaptive": sweep.schedule == "adaptive", "by_metric": sweep.by_metric, "rounded": sweep.rounded}
        yield {name: value for name, value in (piece | own).items() if name not in unset or value != unset[name]}


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Attack the images of a piece and compare their maps before and after."""
    trial, first = Trial(piece, subjects), []

    def visit(iterate: Iterate) -> None:
        if iterate.number == 1:
            first.append(iterate.images)

    found = trial.run(visit)
    before, after, after_first = (trial.maps(images) for images in (trial.images, found.images, first[0]))
    target_before, target_after = trial.aim(before, before), trial.aim(after, before)
    return trial.rows(
        found,
        **metrics(before, after, piece["k"]),
        **{f"first_{name}": column for name, column in metrics(before, after_first, piece["k"]).items()},
        iteration=found.iteration,
        objective=found.objective,
        gain=target_after - target_before,
        target_before=target_before,
        target_after=target_after,
        pooling=piece["network_options"].get("pooling"),
    )


DIGITS = Setup(
    data="digits",
    data_options={"split": "test"},
    candidates=24,
    network="digits_cnn",
    training_epochs=12,
    k=100,
    surrogate_beta=4.0,  # what fragility.surrogate.suggest_beta says for the training images
    baseline=(0.305,),  # their mean
)
# The normalisation is folded into the first layer: pre-activations, and with them beta, are those of Caffe's units.
SQUEEZENET = Setup(
    data="imagenet",
    candidates=527,
    network="squeezenet",
    network_options={"weights": "caffe", "pooling": "floor"},
    k=1000,
    surrogate_beta=1.0,
    baseline=CAFFE_MEAN,
)
CEIL = replace(SQUEEZENET, network_options={"weights": "caffe", "pooling": "ceil"})

_digits = partial(Sweep, setup="digits", iterations=10, sizes={51.0: 10.0})
_forty = partial(Sweep, setup="squeezenet", iterations=40, batch=4)
_twenty = partial(Sweep, setup="squeezenet", iterations=20)
_noise = partial(Sweep, attacks=NOISE, sizes=ONE_DRAW)
_paper = partial(Sweep, setup="squeezenet", images=512, batch=32)
PROFILES = {
    # Digits: seconds, no network. The pictures are 32 x 32, so changes have to be large to matter.
    "fast": SweepProfile(
        setups={"digits": DIGITS},
        sweeps=(
            _noise(
                setup="digits", methods=METHODS, sizes={25.5: None, 51.0: None}, images=16, batch=8, evaluation_steps=10
            ),
            _digits(attacks=WALK, methods=GRADIENT, images=8, batch=4, sizes={25.5: 10.0, 51.0: 10.0}),
            _digits(attacks=BOTH, methods=GRADIENT + DEEPLIFT, images=8, batch=4),
            _digits(attacks=TARGETED, methods=GRADIENT, images=8, batch=4),
            _digits(attacks=("top_k",), methods=INTEGRATED, images=4, batch=2, attack_steps=5, evaluation_steps=10),
        ),
    ),
    # Photographs on a laptop's two cores: a night. In place of the paper's P = 300 it has P = 40 for the simple
    # gradient and 20 for the others.
    "laptop": SweepProfile(
        setups={"squeezenet": SQUEEZENET, "squeezenet-ceil": replace(CEIL, candidates=128)},
        sweeps=(
            _noise(setup="squeezenet", methods=GRADIENT + DEEPLIFT, images=64, batch=4),
            _noise(setup="squeezenet", methods=GRADIENT, images=496, start=64, batch=8),
            _noise(setup="squeezenet", methods=INTEGRATED, images=64, batch=4, evaluation_steps=20),
            _forty(attacks=BOTH + WALK, methods=GRADIENT, sizes=STEPS, images=64),
            _forty(attacks=TARGETED, methods=GRADIENT, sizes={8.0: 1.0}, images=64),
            _forty(attacks=TARGETED, methods=GRADIENT, sizes={2.0: 0.5, 4.0: 0.5, 1.0: 0.5}, images=32),
            _twenty(attacks=BOTH + TARGETED, methods=DEEPLIFT, sizes=STEPS, images=16, batch=4),
            _twenty(attacks=BOTH, methods=INTEGRATED, sizes=STEPS, images=4, batch=2, attack_steps=10),
            _noise(setup="squeezenet-ceil", methods=GRADIENT, images=64, batch=4),
            _forty(setup="squeezenet-ceil", attacks=BOTH, methods=GRADIENT, sizes={8.0: 1.0, 2.0: 0.5}, images=16),
        ),
    ),
    # The paper's own scale, for a GPU.
    "paper": SweepProfile(
        setups={"squeezenet": replace(SQUEEZENET, candidates=1000), "squeezenet-ceil": replace(CEIL, candidates=1000)},
        sweeps=(
            _paper(attacks=NOISE, methods=METHODS, sizes=ONE_DRAW),
            _paper(attacks=BOTH + TARGETED + WALK, methods=METHODS, sizes=PAPER_STEPS, iterations=300),
            _paper(setup="squeezenet-ceil", attacks=NOISE, methods=METHODS, sizes=ONE_DRAW),
            _paper(setup="squeezenet-ceil", attacks=BOTH, methods=GRADIENT, sizes=PAPER_STEPS, iterations=300),
        ),
    ),
}
STUDY = Study(COLUMNS, PROFILES, prepare_sweeps, pieces, rows, cost=cost, tolerance=TOLERANCE)
