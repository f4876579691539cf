"""The ledger of claims, and what the stored results say about each: `fragility claims`.

Every verdict is computed. A rule is a function from the stored results to a finding; thresholds stand in the rules, and
were fixed before the numbers were looked at.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fragility.study import curvature_rules, defense_rules, identities, influence_rules, sweep_rules
from fragility.study.evidence import Finding, Measure, Results, verdict
from fragility.study.store import checkout

Rule = Callable[[Results], Finding]
VERDICTS = ("reproduced", "direction only", "not reproduced", "refuted", "not yet tested")


class Claim(NamedTuple):
    """A row of the ledger."""

    id: str
    text: str
    source: str
    published: str  # what was published; "" where it is a table of means, see `results/published.csv`
    chapter: str  # where the book shows it
    needed: int  # images (or seeds, or draws) below which it is not tested; 1 for identities
    rule: Rule


METHODS, ATTACKS, INFLUENCE, HESSIAN, ORTHOGONALITY, DEFENSES = (
    "01_methods",
    "02_attacks",
    "03_influence",
    "04_hessian",
    "05_orthogonality",
    "06_defenses",
)
_SWEEP, _INFLUENCE, _CURVATURE, _DEFENSE = sweep_rules, influence_rules, curvature_rules, defense_rules
_EXACT = identities

LEDGER = (
    Claim(
        "M1",
        "Integrated gradients is complete, sensitive, implementation invariant, linear and symmetric; DeepLIFT sums to "
        "the difference from the reference.",
        "Sundararajan et al. 2017; Shrikumar et al. 2017",
        "proved",
        METHODS,
        1,
        _EXACT.axioms,
    ),
    Claim(
        "A1",
        "Random sign noise alone already changes top-k intersection and rank correlation markedly.",
        "section 4",
        "intersection .424, rank correlation .703 at 2/255 (simple gradient)",
        ATTACKS,
        64,
        _SWEEP.noise_alone,
    ),
    Claim(
        "A2",
        "Top-k and mass-centre attacks perform alike on intersection and rank correlation, and far better than noise.",
        "figures 2 and 3",
        "intersection .005, .067 and, for noise, .424 at 2/255 (simple gradient)",
        ATTACKS,
        64,
        _SWEEP.attacks_alike,
    ),
    Claim(
        "A3",
        "An L-inf size of 2 is already enough.",
        "figure 2",
        "intersection .005 at 2/255, .007 at 8/255 (simple gradient, top-k)",
        ATTACKS,
        64,
        _SWEEP.two_is_enough,
    ),
    Claim(
        "A4",
        "Integrated gradients is the most robust of the three methods.",
        "section 4, appendix D",
        "intersection .184 against .007 and .012 at 8/255 (top-k)",
        ATTACKS,
        64,
        _SWEEP.integrated_is_sturdiest,
    ),
    Claim(
        "A5",
        "Only the attacks, not noise, move the centre of mass.",
        "appendix D",
        "51.8 px against 2.2 px at 2/255 (simple gradient)",
        ATTACKS,
        64,
        _SWEEP.only_attacks_move_the_centre,
    ),
    Claim(
        "A6",
        "CIFAR-10 is more robust than ImageNet.",
        "figure 9",
        "a figure without numbers",
        ATTACKS,
        64,
        _SWEEP.cifar_is_sturdier,
    ),
    Claim(
        "A7",
        "A targeted attack can move the importance onto a chosen region with the label unchanged.",
        "figure 1 and section 3",
        "examples",
        ATTACKS,
        64,
        _SWEEP.importance_can_be_moved,
    ),
    Claim(
        "A8",
        "Perturbations made on the softplus surrogate fool the ReLU network.",
        "footnote in section 3",
        "stated",
        ATTACKS,
        64,
        _SWEEP.surrogates_fool_the_network,
    ),
    Claim(
        "I1",
        "Noise hardly changes influence; the sign attack lowers the rank correlation and replaces the top 5.",
        "figure 4",
        "a figure",
        INFLUENCE,
        200,
        _INFLUENCE.influence_attack,
    ),
    Claim(
        "I2",
        "Influence can decorrelate or reverse.",
        "figure 10",
        "rank correlation -.78 at 8/255 (one example)",
        INFLUENCE,
        200,
        _INFLUENCE.influence_reversed,
    ),
    Claim(
        "I3",
        "Influence predicts leave-one-out retraining.",
        "Koh and Liang 2017",
        "correlation .86 (a convolutional network)",
        INFLUENCE,
        30,
        _INFLUENCE.leave_one_out,
    ),
    Claim(
        "I4",
        "Influence finds flipped labels faster than loss or chance.",
        "Koh and Liang 2017",
        "a figure",
        INFLUENCE,
        10,
        _INFLUENCE.wrong_labels,
    ),
    Claim(
        "I5",
        "One perturbed training image flips test predictions.",
        "Koh and Liang 2017",
        "57 % of 591 images",
        INFLUENCE,
        200,
        _INFLUENCE.flipped_predictions,
    ),
    Claim(
        "I6",
        "Influence estimates lose accuracy with depth and without weight decay.",
        "Basu et al. 2021",
        "figures",
        INFLUENCE,
        10,
        _INFLUENCE.deeper_networks,
    ),
    Claim("H1", "A linear score has a constant saliency.", "appendix F", "proved", HESSIAN, 1, _EXACT.linear_scores),
    Claim(
        "H2",
        "For g(w . x) the relative change grows with the l1 norm of w, that is with the square root of the dimension.",
        "appendices F and G",
        "derived",
        HESSIAN,
        20,
        _CURVATURE.dimension,
    ),
    Claim(
        "H3",
        "sign(w) is the sign of the Hessian's first singular vector.",
        "appendix F",
        "derived",
        HESSIAN,
        1,
        _EXACT.sign_of_the_weights,
    ),
    Claim(
        "O1",
        "The steepest directions of the score and of the saliency are nearly orthogonal.",
        "figure 11a",
        "a figure, 1,000 CIFAR-10 images",
        ORTHOGONALITY,
        200,
        _CURVATURE.orthogonal,
    ),
    Claim(
        "O2",
        "The same holds for influence.",
        "figure 11b",
        "a figure, 200 images",
        ORTHOGONALITY,
        200,
        _CURVATURE.orthogonal_for_influence,
    ),
    Claim(
        "O3",
        "In two layers the most fragile direction is one w_k, and not parallel to the gradient.",
        "appendix H",
        "derived",
        ORTHOGONALITY,
        400,
        _CURVATURE.two_layers,
    ),
    Claim(
        "D1",
        "A product of operator norms bounds the Lipschitz constant of the saliency (eq. 7).",
        "appendix I",
        "derived",
        DEFENSES,
        1,
        _EXACT.lipschitz_bounds,
    ),
    Claim(
        "D2",
        "IG-NORM and IG-SUM-NORM raise intersection and Kendall's tau at a small cost in accuracy.",
        "Chen et al. 2019",
        "MNIST: 98.74 % and 98.34 % of 99.17 % accuracy kept",
        DEFENSES,
        5,
        _DEFENSE.robust_attributions,
    ),
    Claim(
        "D3",
        "With lambda = 1 and s = sum, robust attribution regularization is adversarial training.",
        "Chen et al. 2019",
        "proved",
        DEFENSES,
        1,
        _EXACT.adversarial_training,
    ),
    Claim(
        "D4",
        "For one layer the l1 and the sum objective coincide.",
        "Chen et al. 2019",
        "proved",
        DEFENSES,
        1,
        _EXACT.one_layer,
    ),
    Claim(
        "D5",
        "With s = l1^q and one step, robust attribution regularization is input-gradient regularization.",
        "Chen et al. 2019",
        "proved",
        DEFENSES,
        1,
        _EXACT.input_gradients,
    ),
    Claim(
        "D6",
        "Discretising inputs or constraining the non-linearity helps.",
        "a lecture",
        "stated",
        DEFENSES,
        5,
        _DEFENSE.discretised_or_smooth,
    ),
)


INTRODUCTION = (
    "This page is written by `fragility claims --write` from the files in `results/`; no verdict is typed by hand. The",
    "rules and their thresholds were fixed before the numbers were looked at. A claim is *reproduced* if every",
    "interval lies on the right side of its threshold as a whole and our 90 % intervals lie within a fixed margin of",
    "the published means in at least 80 % of the cases; *direction only* if the second fails or a sensitivity analysis",
    "disagrees; *refuted* if an interval lies on the wrong side as a whole; *not yet tested* if there are fewer images",
    "(or seeds) than the rule asks for, whatever they look like; else *not reproduced*. Images without a kept label",
    "count as unchanged. Intervals are 95 % bootstrap intervals unless it is said otherwise.",
)


class Judged(NamedTuple):
    """A claim with what was found and the verdict."""

    claim: Claim
    finding: Finding
    verdict: str


def judge(folder: Path | None = None) -> list[Judged]:
    """Evaluate every claim.

    Args:
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        In the order of the ledger.
    """
    results = Results() if folder is None else Results(folder)
    judged = []
    for claim in LEDGER:
        finding = claim.rule(results)
        judged.append(Judged(claim, finding, verdict(finding, claim.needed)))
    return judged


def page(judged: Sequence[Judged], chapters: Iterable[str]) -> str:
    """Write the book's page.

    Args:
        judged: from `judge`.
        chapters: the names of the chapters that exist; others are not linked.

    Returns:
        Markdown.
    """
    known = set(chapters)
    lines = [
        *("---", "myst:", "  heading_anchors: 2", "---", ""),  # the chapters link to the sections
        "# The claims, and what became of them",
        "",
        *INTRODUCTION,
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| [{one.claim.id}](#{one.claim.id.lower()}) {one.claim.text} | *{one.verdict}* |" for one in judged),
        "",
    ]
    for one in judged:
        lines += _section(one, known)
    return "\n".join(lines)


def _section(one: Judged, chapters: set[str]) -> list[str]:
    claim, finding, outcome = one
    name = claim.chapter
    number = name.split("_")[0].lstrip("0")
    link = f"[chapter {number}](../notebooks/{name}.ipynb)" if name in chapters else f"chapter {number}, to come"
    lines = [
        f"({claim.id.lower()})=",
        f"## {claim.id}: {outcome}",
        "",
        claim.text,
        "",
        f"- Source: {claim.source}; published: {claim.published}.",
        f"- Shown in {link}.",
    ]
    if finding.where:
        lines.append(f"- Computed from: {finding.where}.")
    if finding.measures and not finding.exact:
        lines.append(f"- n = {finding.n}, of the {claim.needed} that the rule asks for.")
    if finding.equality is not None:
        inside, total = finding.equality
        lines.append(f"- Published means matched: {inside} of the {total} for which there are enough images.")
    lines += [f"- Doubt: {text}." for text in finding.doubts]
    lines += [f"- {text[0].upper()}{text[1:]}." for text in finding.notes]
    lines.append("")
    if finding.measures:
        lines += ["| measured | ours | threshold | n |", "|---|---|---|---|"]
        lines += [_row(measure, finding.exact) for measure in finding.measures]
        lines.append("")
    return lines


def _row(measure: Measure, exact: bool) -> str:
    mark = "holds" if measure.holds else "fails" if measure.n > 1 or exact else ""
    name = measure.name.replace("|", "\\|")
    n = "-" if exact else str(measure.n)
    return f"| {name} | {shown(measure, exact)} | {measure.threshold} {mark} | {n} |"


def shown(measure: Measure, exact: bool = False) -> str:
    """Write a number with its interval.

    Args:
        measure: which.
        exact: whether it is a rounding error, which differs from machine to machine and is told by its limit.

    Returns:
        For example `.42 [.39, .45]`.
    """
    if exact:
        return "within the limit" if measure.holds else f"{measure.value:.3g}"
    if measure.n == 0:
        return "no data"
    interval = f" [{measure.low:.3g}, {measure.high:.3g}]" if measure.n > 1 else ""
    return f"{measure.value:.3g}{interval}"


def write(folder: Path | None = None) -> Path:
    """Write the book's page into the checkout.

    Args:
        folder: where the results lie; None for those of the checkout.

    Returns:
        The page.

    Raises:
        FileNotFoundError: outside of a checkout.
    """
    root = checkout()
    if root is None:
        raise FileNotFoundError("book/claims.md: expected a checkout of the repository, got an installed package")
    path = root / "book" / "claims.md"
    path.write_text(page(judge(folder), chapters(root)), encoding="utf-8")
    return path


def chapters(root: Path) -> list[str]:
    """List the chapters that there are.

    Args:
        root: of the checkout.

    Returns:
        Their names, without suffix.
    """
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
