"""The `fragility` command. Heavy modules are imported inside the commands: `fragility --help` answers at once."""

import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

RESULTS = "the results that came with the package"


@click.group(no_args_is_help=False, epilog="Try `fragility data list`, then `fragility COMMAND --help`.")
@click.version_option(package_name="fragility", message="fragility %(version)s")
def cli() -> None:
    """Attack and defend the interpretations of neural networks."""


@cli.group(no_args_is_help=False)
def data() -> None:
    """List, fetch and check the data sets.

    They live in $FRAGILITY_DATA (default ~/.cache/fragility).
    """


@data.command("list")
def data_list() -> None:
    """Show name, size, licence, and whether it is there."""
    from fragility.data.download import data_folder
    from fragility.data.sources import SOURCES

    print(f"data folder: {data_folder()}\n")
    print(f"{'name':<14}{'download':>10}  {'present':<8} licence")
    for name, source in SOURCES.items():
        size = f"{source.megabytes:.0f} MB" if source.megabytes else "-"
        print(f"{name:<14}{size:>10}  {'yes' if source.present() else 'no':<8} {source.licence}")


@data.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def data_fetch(names: Sequence[str]) -> None:
    """Download data sets; `fragility data list` shows their names."""
    from fragility.data.sources import find

    for name, source in {name: find(name) for name in names}.items():
        present = source.present()
        if not present:
            source.fetch()
        print(f"{name}: {'already there' if present else 'fetched'}")


@data.command("check")
@click.argument("names", nargs=-1, metavar="[NAME...]")
def data_check(names: Sequence[str]) -> None:
    """Verify what is there, or the named data sets.

    Compares checksums, counts files and reads images. The exit status is 1 if a data set is damaged, or if a named one
    is missing.
    """
    from fragility.data.sources import SOURCES, find

    status = 0
    for name, source in {name: find(name) for name in names or SOURCES}.items():
        try:
            print(f"{name}: {source.check() if source.present() else 'missing'}")
            status |= bool(names) and not source.present()
        except (OSError, ValueError) as error:
            print(f"{name}: damaged: {error}")
            status = 1
    click.get_current_context().exit(status)


def _results(default: str) -> Callable[..., Any]:
    """Add the options that two commands share."""
    folder = click.option("--results", "folder", type=Path, metavar="DIR", help=f"Default: {default}.")
    device = click.option("--device", default="cpu", show_default=True, help="Or cuda, or another device of PyTorch.")
    return lambda command: folder(device(command))


@cli.command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@click.option("--profile", required=True, metavar="P", help="fast, laptop or paper.")
@_results("results/ of the checkout or of this folder")
@click.option("--limit-images", type=int, metavar="N", help="Compute only pieces that begin among the first N images.")
@click.option("--scheduler", metavar="ADDRESS", help="Compute on this dask.distributed cluster.")
def run(studies: Sequence[str], profile: str, **options: Any) -> None:
    """Compute what is missing of one or more studies.

    Each STUDY, attack_sweep for example, becomes a table (CSV) and a record of how it was made (JSON). A run can be
    killed at any moment; the same command resumes it.
    """
    from fragility.study.run import run as run_study

    for study in studies:
        table, rows, computed, missing = run_study(study, profile, **options, progress=True)
        print(f"{table}: {rows} rows; {computed} pieces computed now, {missing} still missing")


@cli.command()
@click.argument("studies", nargs=-1, metavar="[STUDY...]")
@click.option("--profile", metavar="P", help="Default: all that have results.")
@click.option("--rows", default=8, show_default=True, metavar="N", help="At least so many of each table.")
@click.option(
    "--minutes", type=float, metavar="N", help="Only pieces that a processor computes in N minutes, estimated."
)
@_results(RESULTS)
@click.option("--seed", type=int, metavar="N", help="Of the sample (default: a new sample every time).")
def verify(studies: Sequence[str], profile: str | None, **options: Any) -> None:
    """Compute a random sample of the stored results again and compare.

    Takes all studies if none is named. The exit status is 0 if all rows agree, 1 if some differ, and 3 if some could
    not be verified because data or weights are missing here.
    """
    from fragility.study.verify import verify as verify_tables

    wrong = unknown = 0
    for report in verify_tables(studies, profile, **options):
        print(
            f"{report.table}: of {report.stored} rows {report.verified} computed again, "
            f"{report.unverifiable} not verifiable here; {len(report.problems) or 'no'} differences"
            + f" ({report.drawable} rows could be drawn)"
            * (options["minutes"] is not None)
        )
        if report.reason:
            print(f"  not verifiable: {report.reason}")
        for problem in report.problems:
            print(f"  {problem}")
        wrong += len(report.problems)
        unknown += report.unverifiable
    click.get_current_context().exit(1 if wrong else 3 if unknown else 0)


@cli.command()
@click.option("--write", is_flag=True, help="Write the book's page, book/claims.md.")
@click.option("--results", type=Path, metavar="DIR", help=f"Default: {RESULTS}.")
def claims(write: bool, results: Path | None) -> None:
    """Judge every claim by the stored results.

    The book's page has the rules, with their dates and changes.
    """
    from fragility.study import claims as ledger
    from fragility.study.claims_page import sentence
    from fragility.study.ledger import shown

    for one in ledger.judge_all(results):
        finding, verdict = one.finding, one.verdict
        n = "exact" if finding.exact else f"n = {verdict.n}"
        print(f"{one.claim.id:<4}{verdict!s:<15} {n:<9} {one.claim.text}\n      {sentence(one)}")
        if verdict.parts:
            print(f"      {', '.join(f'{part} {text}' for part, text in verdict.parts.items())}")
        for measure in finding.measures:
            print(f"      {measure.name}: {shown(measure, finding.exact)}, {measure.threshold}")
    if write:
        print(f"written: {ledger.write(results)}")


_METHODS = ("simple_gradient", "integrated_gradients", "deeplift", "lrp", "deep_taylor")


def _pixel_amount(text: str | float) -> float:
    """Read a positive amount of the pixel range: `8/255` or `0.03`."""
    try:
        amount = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise click.BadParameter(f"expected a number such as 8/255 or 0.03, got {text!r}") from error
    if not 0 < amount <= 1:
        raise click.BadParameter(f"expected a part of the pixel range, in (0, 1], got {text!r}")
    return amount


def _amount(name: str, default: str | None, help_text: str) -> Callable[..., Any]:
    return click.option(name, type=_pixel_amount, metavar="E", default=default, show_default=True, help=help_text)


def _choice(name: str, help_text: str, *values: str) -> Callable[..., Any]:
    return click.option(name, type=click.Choice(values), default=values[0], show_default=True, help=help_text)


LOG_ODDS = click.option("--log-odds", is_flag=True, help="Explain log-odds in place of logits.")


@cli.command()
@click.option("--image", type=Path, required=True, metavar="FILE", help="Any format that Pillow reads.")
@click.option("--out", type=Path, required=True, metavar="DIR", help="The folder for the results.")
@_choice("--model", "With its pretrained weights.", "squeezenet", "inception_v3")
@_choice("--method", "What the map shows.", *_METHODS)
@_choice("--objective", "Targeted: into the opposite quadrant.", "top_k", "mass_center", "targeted")
@LOG_ODDS
@_amount("--epsilon", "8/255", "Radius of the L-inf ball.")
@_choice(
    "--schedule", "Annealed: of step and surrogate together.", "annealed", "constant", "linear", "momentum", "adaptive"
)
@_amount("--step-size", None, "The first step (default: epsilon / 8 if annealed, else 1/255).")
@click.option("--iterations", default=40, show_default=True, metavar="P", help="Number of steps.")
@click.option("--label", type=int, metavar="N", help="The class explained (default: the prediction).")
@click.option("--k", default=1000, show_default=True, help="Pixels that count as most important.")
@click.option("--path-steps", default=25, show_default=True, metavar="M", help="Points on integrated gradients' path.")
@click.option(
    "--surrogate-beta", type=float, metavar="B", help="Sharpness of the surrogate at the end (default: a suggestion)."
)
def attack(out: Path, **options: Any) -> None:
    """Change the importance map of your own photograph.

    Writes original.png, perturbed.png, map_original.png, map_perturbed.png and report.json. The exit status is 1 if no
    step kept the label; the pictures then show the original.
    """
    from fragility.photograph import attack_photograph

    report = attack_photograph(out=out, **options)
    before, after = report["original"], report["perturbed_png"]
    print(
        f"{before['class']} {before['confidence']:.2f} -> {after['class']} {after['confidence']:.2f}; "
        f"Spearman {after['spearman']:.2f}, centre of mass moved {after['center_shift']:.1f} px; see {out}"
    )
    if not report["label_kept"]:
        print("fragility: no iterate kept the label; nothing was changed", file=sys.stderr)
        click.get_current_context().exit(1)


@cli.command()
@click.option(
    "--model",
    default="squeezenet",
    show_default=True,
    metavar="M",
    help="FILE.py:FUNCTION, MODULE:FUNCTION "
    "(your own code, which is run: it returns the model, or the model and a transform), or torchvision:NAME.",
)
@click.option("--weights", type=Path, metavar="FILE", help="A state_dict for torchvision's; only tensors are read.")
@LOG_ODDS
@click.option("--images", type=Path, metavar="DIR", help="Flat, or a folder per class (default: four photographs).")
@click.option("--out", type=Path, required=True, metavar="DIR", help="The folder for the report.")
@click.option("--size", default=227, show_default=True, metavar="N", help="Height and width that the model takes.")
@click.option("--channels", default=3, show_default=True, metavar="C", help="3 for colour, 1 for grey.")
@click.option("--limit-images", type=int, metavar="N", help="At most so many, in turn from each class.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Again for each (default: three of them).")
@click.option(
    "--epsilon", "epsilons", multiple=True, type=_pixel_amount, metavar="E",
    help="Again for each (default: 2/255, 4/255 and 8/255).",
)  # fmt: skip
@click.option(
    "--minutes", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="T",
    help="A tenth of them may go by with reading images; 0: until nothing moves.",
)  # fmt: skip
@click.option("--doublings", default=4, show_default=True, metavar="N", help="Of an attack's steps, at most.")
@click.option("--device", default="cpu", show_default=True, help="Or cuda, or another device of PyTorch.")
def audit(
    out: Path, model: str, weights: Path | None, log_odds: bool, images: Path | None, size: int, channels: int,
    limit_images: int | None, minutes: float, **options: Any,
) -> None:  # fmt: skip
    """Measure how fragile the explanations of your own model are.

    Searches for the worst case on your images, compares it with noise and with what sampling tools report, and writes
    report.html, report.json, rows.csv and the changed images. A run can be killed at any moment; the same command
    resumes it, and with more minutes goes on.
    """
    from fragility.audit import audit as measure
    from fragility.audit.images import read_folder
    from fragility.audit.models import BUILT_IN, load_model
    from fragility.data.datasets import imagenet_classes

    known = model == BUILT_IN or model.startswith("torchvision:")
    loaded = load_model(model, weights, log_odds=log_odds)
    given = read_folder(images, size=size, channels=channels, limit=limit_images, seconds=6 * minutes or None)
    options = {name: value for name, value in options.items() if value != ()}
    options |= {"title": model.removeprefix("torchvision:"), "class_names": imagenet_classes() if known else ()}
    found = measure(loaded, given, folder=out, minutes=minutes or None, **options)
    print("\n".join([*found.summary["sentences"], f"See {out / 'report.html'}"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `fragility` command.

    Args:
        argv: the arguments after the command's name; None for those of the process.

    Returns:
        Exit status: 0 for success, 1 if a check failed, 2 for a wrong request or a source out of reach,
        130 if interrupted.
    """
    try:
        return int(cli.main(argv, prog_name="fragility", standalone_mode=False) or 0)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "fragility"
        print(f"{command}: {error.format_message()} (see {command} --help)", file=sys.stderr)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"fragility: {error}", file=sys.stderr)
    except click.Abort:
        return 130
    return 2
