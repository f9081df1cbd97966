"""An evaluation for people: a table, curves in TensorBoard, and a few sentences."""

from pathlib import Path
from typing import Any

from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from whycluster.evaluation import Evaluation
from whycluster.evaluation.evaluation import ORDERS
from whycluster.evaluation.measuring import MEASURES

FOLDER = "evaluation"  # within that of TensorBoard


def evaluation_table(evaluation: Evaluation) -> Table:
    """The methods, one a line, best first by the first fill."""
    fills = evaluation.settings["fills"]
    table = Table(
        title=f"Flipping {evaluation.settings['images']} images, up to {evaluation.settings['fraction']:.0%} of each: "
        "area between least and most relevant first (95 % intervals)"
    )
    table.add_column("method")
    for name in ("passes", "s/image", *(f"SRG, {fill}" for fill in fills), "SRG of probability", "flips by most"):
        table.add_column(name, justify="right")
    masks = evaluation.mask_area
    if masks is not None:
        table.add_column(f"mass in masks ({float(masks.mean()):.1%} of the area)", justify="right")
        table.add_column("densest in masks", justify="right")
    for method in sorted(evaluation.methods, key=lambda name: -evaluation.srg(name, fills[0]).value):
        table.add_row(
            *_cells(evaluation, method, fills), style="bold" if method == next(iter(evaluation.methods)) else ""
        )
    return table


def _cells(evaluation: Evaluation, method: str, fills: list[str]) -> list[str]:
    measured = evaluation.methods[method]
    srg = [evaluation.srg(method, fill) for fill in fills]
    cells = [
        method,
        str(measured.passes),
        f"{measured.seconds:.3f}",
        *(f"{value:.3f} ({low:.2f} to {high:.2f})" for value, low, high in srg),
        f"{evaluation.srg(method, fills[0], 'probability').value:.3f}",
        f"{evaluation.flipped(method, fills[0], 'most').value:.0%}",
    ]
    if measured.in_masks is not None:
        cells += [f"{measured.in_masks.mass.nanmean():.1%}", f"{measured.in_masks.hit.mean():.0%}"]
    return cells


def evaluation_sentences(evaluation: Evaluation) -> list[str]:
    """What else was found out about our explanations."""
    sanity: dict[str, Any] = evaluation.sanity
    left = [stage["correlation"]["value"] for stage in sanity["randomised"]]
    asked, noise, kept = sanity["discriminativity"], sanity["sensitivity"], sanity["receipts"]
    pairs = asked["pairs"]["value"]
    against = "" if pairs != pairs else f", and {pairs:.2f} against one competitor and against another"  # NaN
    return [
        f"shuffled weights, top layer first, leave rank correlations of {', '.join(f'{value:.2f}' for value in left)} "
        "with the heatmaps (0: nothing is left)",
        f"heatmaps of a cluster and of its runner-up correlate by {asked['runner_up']['value']:.2f}{against}",
        f"noise of 2 % changes heatmaps by {noise['change']['value']:.0%} of their length at worst; rank correlation "
        f"{noise['correlation']['value']:.2f}",
        f"of the discriminant, {kept['pixels']:.0%} arrive at the pixels and {kept['absorbed']:.0%} are absorbed; "
        f"receipts balance to {kept['imbalance']:.0e}",
    ]


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Curves for TensorBoard: a run for each method, so that one chart shows them all; steps are per cent gone."""
    for method in evaluation.methods:
        writer = SummaryWriter(str(folder / FOLDER / method))
        for fill in evaluation.settings["fills"]:
            for measure in MEASURES:
                for order in ORDERS:
                    curve = evaluation.mean_curve(method, fill, order, measure)
                    for count, value in zip(evaluation.counts, curve, strict=True):
                        percent = round(100 * count / evaluation.n_patches)
                        writer.add_scalar(f"{measure}, {fill}/{order} relevant first", value, percent)
            srg = evaluation.srg(method, fill)
            writer.add_scalar(f"srg/{fill}", srg.value, 0)
        writer.close()
