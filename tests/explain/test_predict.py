import pytest
import pytorch_lightning as pl
import torch

from whycluster.data import Folder, PreparedImages, Shards
from whycluster.explain import Explainer, parse_target
from whycluster.explain.predict import ExplanationModule


def predict(model, photos, target, batch_size, rows=None):
    images = PreparedImages(Folder(photos), model.backbone.preprocessing, rows)
    nothing = Shards(photos / "none", len(images.collection.paths))
    module = ExplanationModule(Explainer(model), parse_target(target, 4), images, nothing, batch_size, 0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    return trainer.predict(module)


def columns(explanation):
    return [explanation.target, explanation.heatmap, *explanation.receipt, *explanation.assignment]


@pytest.fixture
def flawed(photos):
    """The folder with a file that is no image between the others."""
    (photos / "2b.png").write_text("no image")
    return photos


@pytest.mark.parametrize("target", ["assigned", "1:2", "all"])
def test_a_run_explains_as_the_explainer_does(model, images, flawed, target):
    batches = predict(model, flawed, target, batch_size=2)

    explainer = Explainer(model)
    expected = explainer.explain_all(images) if target == "all" else [explainer.explain(images, target)]
    for number, whole in enumerate(expected):
        parts = [columns(batch[number]) for batch in batches if batch]
        for column, theirs in zip(columns(whole), zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(theirs), column, rtol=1e-3, atol=1e-3)
    assert [len(batch[0].target) for batch in batches] == [2, 1, 2, 1]


def test_a_batch_without_any_image_has_no_explanation(model, flawed):
    first, second = predict(model, flawed, "assigned", batch_size=1, rows=[3, 4])
    assert first == []
    assert second[0].heatmap.shape == (1, 32, 32)


def test_processes_share_the_images(model, photos):
    images = PreparedImages(Folder(photos), model.backbone.preprocessing)
    module = ExplanationModule(Explainer(model), parse_target("assigned", 4), images, Shards(photos, 6), 4, 0)
    taken = []
    for rank in range(4):
        module._trainer = type(
            "Trainer",
            (),
            {"global_rank": rank, "world_size": 4, "strategy": pl.Trainer(accelerator="cpu", logger=False).strategy},
        )()
        taken += [index for batch in module.predict_dataloader() for index in batch.indices.tolist()]
    assert taken == list(range(6))
