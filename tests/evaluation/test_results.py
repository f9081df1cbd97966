"""Figures of random results, against NumPy."""

import numpy as np
import pytest
import torch

from whycluster.evaluation.results import ORDERS, SCORES, Evaluation, FlippingCurves, MaskAgreement, MethodResults

COUNTS, N_PATCHES = [0, 1, 4, 6], 9
FILLS = ("mean", "blur")


@pytest.fixture
def curves():
    """Curves of 7 images, `(7, 4, 3)`, for each method, fill and order."""
    random = np.random.default_rng(0)
    return {
        (method, fill, order): random.uniform(0.5, 2, (7, len(COUNTS), len(SCORES)))
        for method in ("ours", "other")
        for fill in FILLS
        for order in ORDERS
    }


@pytest.fixture
def evaluation(curves):
    agreement = MaskAgreement(torch.tensor([0.2, torch.nan, 0.6]), torch.tensor([0.1, 0.2, 0.3]), torch.ones(3))
    methods = {
        method: MethodResults(
            passes,
            0.5,
            {
                fill: FlippingCurves(*(torch.from_numpy(curves[method, fill, order]) for order in ("most", "least")))
                for fill in FILLS
            },
            agreement,
        )
        for method, passes in (("ours", 2), ("other", 32))
    }
    return Evaluation(methods, COUNTS, N_PATCHES, torch.tensor([0.1, 0.2, 0.6]), {"x": 1}, {"images": 7})


def mean_height(curve):
    """Of curves `(7, 4)` over the counts, by the trapezoidal rule, `(7,)`."""
    return (np.diff(COUNTS) * (curve[:, 1:] + curve[:, :-1]) / 2).sum(1) / (COUNTS[-1] - COUNTS[0])


@pytest.mark.parametrize("method", ["ours", "other"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("column", "score"), list(enumerate(SCORES)))
def test_srg_is_the_area_between_the_curves_of_its_score(evaluation, curves, method, fill, column, score):
    most, least = (curves[method, fill, order][..., column] for order in ("most", "least"))
    gap = (mean_height(least) - mean_height(most)).mean()
    found = evaluation.srg(method, fill, score)
    assert found.value == pytest.approx(gap / most[:, 0].mean() if score == "discriminant" else gap)
    assert found.low < found.value < found.high
    assert evaluation.to_json()["methods"][method]["flipping"][fill]["srg"].get(score, found._asdict()) == (
        found._asdict()
    )


def test_srg_is_that_of_the_discriminant_unless_asked_otherwise(evaluation):
    assert evaluation.srg("ours", "mean") == evaluation.srg("ours", "mean", "discriminant")


@pytest.mark.parametrize("order", ORDERS)
def test_curves_are_means_and_flipped_is_what_is_missing_at_the_end(evaluation, curves, order):
    mean = curves["other", "blur", order].mean(0)
    for column, score in enumerate(SCORES):
        unit = mean[0, 0] if score == "discriminant" else 1
        np.testing.assert_allclose(evaluation.mean_curve("other", "blur", order, score), mean[:, column] / unit)
    assert evaluation.flipped("other", "blur", order).value == pytest.approx(1 - mean[-1, 2])
    values = evaluation.to_json()["methods"]["other"]["flipping"]["blur"]
    assert values["flipped"][order]["value"] == pytest.approx(1 - mean[-1, 2])
    np.testing.assert_allclose(values["curves"]["probability"][order], mean[:, 1])


def test_json_values(evaluation):
    values = evaluation.to_json()
    assert values["fraction_gone"] == [0, 1 / 9, 4 / 9, 6 / 9]
    assert (values["settings"], values["sanity"]) == ({"images": 7}, {"x": 1})
    assert values["masks"] == {"images": 3, "area": pytest.approx(0.3)}
    other = values["methods"]["other"]
    assert (other["passes"], other["seconds_per_image"]) == (32, 0.5)
    assert other["masks"]["mass"]["value"] == pytest.approx(0.4)
    assert other["masks"]["rank"]["value"] == pytest.approx(0.2)
    assert set(other["flipping"]["mean"]["srg"]) == {"discriminant", "probability"}
    assert "masks" not in evaluation._replace(mask_area=None).to_json()
