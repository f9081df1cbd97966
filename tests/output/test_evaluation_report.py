import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from whycluster.evaluation.results import Evaluation, FlippingCurves, MaskAgreement, MethodResults
from whycluster.output.evaluation_report import evaluation_sentences, evaluation_table, write_curves


def curve(*heights):
    """Ten images with these discriminants, probabilities a tenth of them."""
    heights = torch.tensor(heights, dtype=torch.float64)
    return torch.stack([heights, heights / 10, (heights > 0).double()], 1).expand(10, -1, -1)


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


@pytest.fixture
def evaluation():
    inside = MaskAgreement(torch.tensor([0.5, torch.nan, 0.7]), torch.tensor([0.4, 0.4]), torch.tensor([1.0, 0.0]))
    methods = {
        "whycluster": MethodResults(2, 0.1, {"mean": FlippingCurves(curve(4, 1, -1), curve(4, 4, 4))}, inside),
        "random": MethodResults(0, 0.0, {"mean": FlippingCurves(curve(4, 2, 1), curve(4, 2, 1))}, inside),
    }
    sanity = {
        "randomised": [
            {"layers": 0, "correlation": figure(0.02), "size": figure(0.3)},
            {"layers": 9, "correlation": figure(-0.04), "size": figure(0.1)},
        ],
        "unrelated": figure(0.07),
        "discriminativity": {"runner_up": figure(-0.5), "pairs": figure(0.7)},
        "sensitivity": {"change": figure(0.2), "correlation": figure(0.9)},
        "receipts": {"features": 1.1, "pixels": 0.8, "absorbed": 0.2, "imbalance": 1e-7},
    }
    settings = {"images": 10, "fraction": 0.5, "fills": ["mean"]}
    return Evaluation(methods, [0, 1, 2], 4, torch.tensor([0.1, 0.1]), sanity, settings)


def test_the_table(evaluation):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation_table(evaluation))
    text = console.export_text()
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in lines] == ["whycluster", "random"]
    assert "0.688 (0.69 to 0.69)" in lines[0]  # (4 - (4/2 + 1 - 1/2) / 2) / 4
    assert "100%" in lines[0]
    assert "60.0%" in lines[0]
    assert "50%" in lines[0]
    assert "0.000" in lines[1]
    assert "10.0% of" in text
    assert "40.0%" in lines[0]
    assert [row.style for row in evaluation_table(evaluation).rows] == ["bold", ""]


def test_the_best_method_is_on_top(evaluation):
    ours, other = evaluation.methods.values()
    table = evaluation_table(evaluation._replace(methods={"whycluster": other, "random": ours}))
    assert list(table.columns[0].cells) == ["random", "whycluster"]
    assert [row.style for row in table.rows] == ["", "bold"]


def test_the_sentences(evaluation, monkeypatch):
    text = "\n".join(evaluation_sentences(evaluation))
    assert "absolute rank correlation of 0.30, 0.10 with the original ones (0.07 is chance" in text
    assert "averages to 0.02, -0.04" in text
    assert "correlate by -0.50, and 0.70" in text
    assert "noise of 2 % changes heatmaps by at most 20% of their norm; rank correlation 0.90" in text
    assert "80% arrive at the pixels and 20% are absorbed; receipts balance to 1e-07" in text
    monkeypatch.setattr("whycluster.output.evaluation_report.SENSITIVITY_NOISE", 0.075)
    assert "noise of 7.5 % changes" in "\n".join(evaluation_sentences(evaluation))
    evaluation.sanity["discriminativity"]["pairs"] = figure(float("nan"))
    assert " nan" not in "\n".join(evaluation_sentences(evaluation))


def test_curves_in_tensorboard(evaluation, tmp_path):
    write_curves(tmp_path, evaluation)
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {"whycluster", "random"}
    events = EventAccumulator(str(tmp_path / "evaluation" / "whycluster"))
    events.Reload()
    most = events.Scalars("discriminant, mean/most relevant first")
    assert [(point.step, point.value) for point in most] == [(0, 1), (1, 0.25), (2, -0.25)]
    assert events.Scalars("srg/mean")[0].value == pytest.approx(0.6875)
    assert len(events.Tags()["scalars"]) == 7
