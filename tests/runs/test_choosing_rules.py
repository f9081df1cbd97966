import json

import numpy as np
import pytest

from whycluster import ClusterModel, Explainer
from whycluster.data import Digits
from whycluster.evaluation.choosing import Rules
from whycluster.runs import choosing_rules
from whycluster.runs.choosing_rules import sentence

FEW = ("composite=auto", "rules_sample=3", "evaluation.steps=2", "evaluation.fills=[mean]", "limit=5")


def chosen(folder):
    return json.loads((folder / "metrics.json").read_text())["rules"]


@pytest.fixture
def counted(monkeypatch):
    """The samples that were measured."""
    samples = []
    measure = choosing_rules.choose_rules

    def counting(explainers, photos, *settings):
        samples.append(photos)
        return measure(explainers, photos, *settings)

    monkeypatch.setattr(choosing_rules, "choose_rules", counting)
    return samples


@pytest.fixture
def planted(monkeypatch):
    """Two candidates, of which the second wins."""
    rules = [Rules("epsilon_gamma_box", 0.25, "attn"), Rules("epsilon_gamma_box", 3.0, "attn")]
    monkeypatch.setattr(choosing_rules, "candidate_rules", lambda attention: rules)
    measure = choosing_rules.choose_rules
    monkeypatch.setattr(choosing_rules, "choose_rules", lambda *given: measure(*given)._replace(chosen=1))


def test_the_chosen_rules_explain_the_images(trained, run, tmp_path, planted, capsys):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", *FEW)
    assert (chosen(folder)["composite"], chosen(folder)["gamma"]) == ("epsilon_gamma_box", 3)
    said = capsys.readouterr().out
    assert "choosing rules among 2 on 3 images: 48 passes through the network, about " in said  # 2 · 3 · (2 + 2·3)
    assert "rules: epsilon_gamma_box, gamma 3, attention attn (SRG " in said
    named = run("explain", tmp_path / "named", f"checkpoint={trained}", "gamma=3", "limit=5")
    for name in ("assignments.csv", "receipts.csv", "relevance/0003.npy", "concepts.npy", "clusters.json"):
        assert (folder / name).read_bytes() == (named / name).read_bytes()
    expected = Explainer(ClusterModel.load(trained), gamma=3.0).explain([Digits().load(3)]).heatmap[0]
    stored = np.load(folder / "relevance" / "0003.npy")
    np.testing.assert_allclose(stored, expected, atol=1e-4 * expected.abs().max())


def test_the_choice_is_made_once_and_kept(trained, run, tmp_path, counted):
    settings = (f"checkpoint={trained}", *FEW, "batch_size=2")
    with pytest.raises(ValueError, match="stopped before"):
        run("explain", tmp_path / "run", *settings, "+trainer.limit_predict_batches=1")
    file = tmp_path / "run" / "unfinished" / "rules.json"
    kept = json.loads(file.read_text())
    kept |= Rules("epsilon_plus", None, "attn")._asdict()  # as if another had been chosen
    file.write_text(json.dumps(kept))
    run("explain", tmp_path / "run", *settings, "resume=true")
    assert chosen(tmp_path / "run") == kept
    assert len(counted) == 1
    assert not file.exists()
    with pytest.raises(ValueError, match=r"begun with rules_sample=3, and now it is 4"):
        run("explain", tmp_path / "run", *settings, "resume=true", "rules_sample=4")
    with pytest.raises(ValueError, match=r"begun with evaluation\.steps=2, and now it is 3"):
        run("explain", tmp_path / "run", *settings, "resume=true", "evaluation.steps=3")


def test_the_same_seed_gives_the_same_choice_and_another_one_other_images(trained, run, tmp_path, counted):
    options = (f"checkpoint={trained}", *FEW, "limit=9")
    one, two = (chosen(run("explain", tmp_path / name, *options)) for name in ("one", "two"))
    assert one == two
    run("explain", tmp_path / "other", *options, "evaluation.seed=1")
    assert counted[0].equal(counted[1])
    assert not counted[0].equal(counted[2])


def test_an_evaluation_is_of_the_chosen_rules_on_other_images(trained, run, tmp_path, planted, counted):
    few = ("evaluate=true", "evaluation.sample=4", "evaluation.baselines=[random]", "limit=9")
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", *FEW, *few)
    found = json.loads((folder / "evaluation.json").read_text())
    assert (found["settings"]["composite"], found["settings"]["gamma"]) == ("epsilon_gamma_box", 3)
    prepare = ClusterModel.load(trained).backbone.preprocessing
    measured_on = [prepare(Digits().load(int(path))).float() / 255 for path in found["images"]]
    assert not any(one.equal(other) for one in measured_on for other in counted[0])


def test_images_that_cannot_be_read_are_not_measured(trained, run, photos, tmp_path, counted):
    options = (f"checkpoint={trained}", f"images={photos}", *FEW[:-1], "rules_sample=20")
    assert chosen(run("explain", tmp_path / "why", *options))["images"] == len(counted[0]) == 12


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("composite=auto", "rules_sample=1"), r"rules_sample=1 should be a whole number >= 2"),
        (("composite=auto", "rules_sample=few"), r"rules_sample='few' should be a whole number"),
        (("composite=auto", "gamma=1"), r"gamma=1 would be chosen by composite=auto"),
        (("composite=auto", "check=true"), r"check=true shows rules that are known before the run"),
        (("composite=auto", "evaluation.patch=99"), r"evaluation\.patch=99 should be smaller than the images"),
        (("composite=auto", "attention=both"), r"attention='both' is unknown"),
        (
            ("composite=epsilon_plus", "gamma=1"),
            r"gamma=1 is of composite=epsilon_gamma_box, and epsilon_plus has none",
        ),
        (("gamma=-1",), r"gamma=-1 should be a number >= 0"),
        (("gamma=much",), r"gamma='much' should be a number >= 0"),
    ],
)
def test_settings_that_make_no_sense(trained, run, tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        run("explain", tmp_path / "why", f"checkpoint={trained}", *settings, "limit=3")
    assert not list((tmp_path / "why").iterdir())


def test_a_choice_in_one_line():
    srg = [{"srg": {"value": value}} for value in (0.8312, 0.9377)]
    choice = {"composite": "epsilon_plus_flat", "gamma": None, "attention": "attn", "images": 16, "candidates": srg}
    better = sentence(choice | {"chosen": 1})
    assert better == "rules: epsilon_plus_flat, attention attn (SRG 0.94 against 0.83 of the default, on 16 images)"
    kept = sentence(choice | {"chosen": 0, "composite": "epsilon_gamma_box", "gamma": 0.25})
    assert kept.startswith(
        "rules: epsilon_gamma_box, gamma 0.25, attention attn, the default (SRG 0.83; none of 1 other"
    )
