import json

import numpy as np
import pytest
import torch

from whycluster.evaluation import OURS, Evaluator

SMALL = {"steps": 2, "fills": ["mean"], "baselines": ["random", "gradient_squared"]}


def test_an_evaluation(glyphs):
    explainer, images = glyphs
    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    masks[2, 4:9, 4:9] = True
    told = []
    evaluation = Evaluator(**SMALL).evaluate(explainer, images, masks, lambda what, done: told.append((what, done)))
    assert list(evaluation.methods) == [OURS, "random", "gradient_squared"]
    assert evaluation.srg(OURS, "mean").low > evaluation.srg("random", "mean").high
    assert told == [(OURS, 0.25), ("random", 0.5), ("gradient_squared", 0.75), ("sanity", 0.75), ("done", 1)]
    plain = json.loads(json.dumps(evaluation.to_json(), allow_nan=True))
    assert plain["settings"]["patch"] == 2
    assert plain["fraction_gone"] == [0, 0.25, 0.5]
    assert plain["masks"] == {"images": 1, "area": 25 / 1024}
    assert set(plain["methods"][OURS]["masks"]) == {"mass", "rank", "hit"}
    flipping = plain["methods"][OURS]["flipping"]["mean"]
    assert flipping["srg"]["discriminant"]["value"] == evaluation.srg(OURS, "mean").value
    assert len(flipping["curves"]["probability"]["least"]) == 3
    assert {"randomised", "unrelated", "discriminativity", "sensitivity", "receipts", "images"} == set(plain["sanity"])


def test_sanity_is_checked_on_images_spread_over_the_sample(glyphs, monkeypatch):
    explainer, images = glyphs
    images = torch.linspace(0, 1, 40).view(-1, 1, 1, 1) * images[:1]
    told, given = [], []
    monkeypatch.setattr("whycluster.evaluation.evaluator.sanity_checks", lambda *args: given.append(args) or {})
    evaluator = Evaluator(steps=1, fills=["mean"], baselines=[], seed=7)
    evaluator.evaluate(explainer, images, None, lambda *what: told.append(what), batch_size=10)
    ((_, some, clusters, seed, batch_size),) = given
    spread = np.linspace(0, 39, 16).round().astype(int)
    assert torch.equal(some, images[spread])
    assert torch.equal(clusters, explainer.model(images).argmax(1)[spread])
    assert (seed, batch_size) == (7, 10)
    assert [done for _, done in told] == [0.125, 0.25, 0.375, 0.5, 0.5, 1]


def test_a_patch_is_a_14th_of_the_shorter_side_unless_given():
    for side, patch in ((28, 2), (41, 2), (42, 3), (10, 1)):
        flipping = Evaluator(steps=4).flipping(torch.zeros(1, 3, side, side + 20))
        n = -(-side // patch) * -(-(side + 20) // patch)
        assert (flipping.patch, flipping.counts[0], flipping.counts[-1]) == (patch, 0, round(n / 2))
        assert list(flipping.fills) == ["mean", "blur"]
    assert Evaluator(patch=5).flipping(torch.zeros(1, 3, 28, 28)).patch == 5


def test_whole_numbers_are_the_same_images(glyphs):
    explainer, images = glyphs
    pixels = (images * 255).round().to(torch.uint8)
    ours, theirs = (
        Evaluator(steps=2, baselines=[]).evaluate(explainer, some) for some in (pixels, pixels.float() / 255)
    )
    assert ours.srg(OURS, "blur") == theirs.srg(OURS, "blur")


def test_the_same_seed_gives_the_same_figures(glyphs):
    explainer, images = glyphs
    first, second, other = (
        Evaluator(**SMALL, seed=seed).evaluate(explainer, images).srg("random", "mean") for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample": 0}, "evaluation.sample=0 should be a whole number >= 1"),
        ({"patch": 2.5}, "evaluation.patch=2.5 should be a whole number"),
        ({"steps": True}, "evaluation.steps=True should be a whole number"),
        ({"fraction": 0}, "evaluation.fraction=0 should be above 0"),
        ({"fraction": 1.5}, "evaluation.fraction=1.5 should be above 0, and at most 1"),
        ({"fills": ["white"]}, "evaluation.fills=.* should be a list of some of mean, blur, inpaint"),
        ({"fills": "mean"}, "should be a list"),
        ({"fills": []}, "should name at least one"),
        ({"fills": ["mean", "mean"]}, "evaluation.fills=.* each once"),
        ({"baselines": None}, "evaluation.baselines=None should be a list"),
        ({"fraction": None}, "evaluation.fraction=None should be above 0"),
        ({"seed": -1}, "evaluation.seed=-1 should be a whole number >= 0"),
        ({"seed": 2**32}, r"evaluation.seed=4294967296 should be below 2\*\*32"),
        ({"seed": None}, "evaluation.seed=None should be a whole number"),
        ({"baselines": ["lime"]}, "evaluation.baselines=.* should be a list of some of random"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Evaluator(**settings)


def test_no_images(glyphs):
    with pytest.raises(ValueError, match="no images to evaluate on"):
        Evaluator().evaluate(glyphs[0], torch.empty(0, 3, 32, 32))


def test_a_patch_as_large_as_the_image(glyphs):
    with pytest.raises(ValueError, match=r"evaluation\.patch=32 should be smaller than the images, 32 by 32 pixels"):
        Evaluator(patch=32, baselines=[]).methods(glyphs[0])
