import json

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
    assert [what for what, _ in told] == [OURS, "random", "gradient_squared", "sanity", "done"]
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    plain = json.loads(json.dumps(evaluation.to_json(), allow_nan=True))
    assert plain["settings"]["patch"] == 2
    assert plain["fraction_gone"] == [0, 0.25, 0.5]
    assert plain["masks"] == {"images": 1, "area": 25 / 1024}
    assert set(plain["methods"][OURS]["masks"]) == {"mass", "rank", "hit"}
    flipping = plain["methods"][OURS]["flipping"]["mean"]
    assert flipping["srg"]["discriminant"]["value"] == evaluation.srg(OURS, "mean").value
    assert len(flipping["curves"]["probability"]["least"]) == 3
    assert {"randomised", "unrelated", "discriminativity", "sensitivity", "receipts", "images"} == set(plain["sanity"])


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
