import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from whycluster.backbones import Backbone, build_backbone
from whycluster.backbones.glyphnet import GlyphNet
from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps
from whycluster.explain import ClusterModel
from whycluster.explain.model import FORMAT_VERSION, running_versions
from whycluster.heads import NeuralizedKMeans


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "model.ckpt"
    model.save(path)
    return path


def squared_distances(features, centroids):
    """In float64, one at a time, `(N, K)`."""
    features, centroids = features.double().numpy(), centroids.double().numpy()
    return np.array([[((x - mu) ** 2).sum() for mu in centroids] for x in features])


def test_forward_is_the_head_on_the_backbone(model, images):
    assert torch.equal(model(images), model.head(model.backbone(images)))
    nearest = squared_distances(model.backbone(images), model.head.centroids).argmin(1)
    assert model(images).argmax(1).tolist() == nearest.tolist()
    assert len(set(nearest)) > 2


def test_assignment_restated(model, images):
    features = model.backbone(images)
    distances = squared_distances(features, model.head.centroids)
    order = distances.argsort(1)
    ascending = np.sort(distances, 1)
    soft = np.exp(-0.02 * (distances - ascending[:, :1]))

    assignment = model.assign(features)

    assert assignment.cluster.tolist() == order[:, 0].tolist()
    assert assignment.runner_up.tolist() == order[:, 1].tolist()
    np.testing.assert_allclose(assignment.discriminant, ascending[:, 1] - ascending[:, 0], rtol=1e-3)
    np.testing.assert_allclose(assignment.probability, 1 / soft.sum(1), rtol=1e-3)
    assert 0.25 < float(assignment.probability.min()) < 0.99


def test_of_equal_centroids_the_first_is_assigned(model, images):
    centroids = model.head.centroids
    twice = ClusterModel(model.backbone, NeuralizedKMeans(torch.cat([centroids, centroids])))
    features = model.backbone(images)
    assignment = twice.assign(features)
    assert torch.equal(assignment.cluster, model.assign(features).cluster)
    assert torch.equal(assignment.cluster, twice(images).argmax(1))
    assert torch.equal(assignment.runner_up, assignment.cluster + 4)
    assert not assignment.discriminant.any()


def test_centroids_have_to_fit_the_backbone(model):
    with pytest.raises(ValueError, match="the backbone gives 1024 features, and the head takes 5"):
        ClusterModel(model.backbone, NeuralizedKMeans(torch.rand(3, 5)))


def test_a_loaded_model_is_the_saved_one_bit_for_bit(model, images, file):
    loaded = ClusterModel.load(file)
    assert torch.equal(loaded(images), model(images))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
        assert loaded.state_dict()[key].dtype == value.dtype, key
    assert loaded.backbone.origin == model.backbone.origin
    assert loaded.backbone.preprocessing == model.backbone.preprocessing
    assert (loaded.source, loaded.seed, loaded.versions) == (model.source, 7, {"whycluster": "0.0.1"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centroids_keep_their_precision(model, tmp_path, dtype):
    head = NeuralizedKMeans(torch.rand(3, 1024, dtype=dtype), beta=torch.inf)
    ClusterModel(model.backbone, head).save(tmp_path / "m")
    loaded = ClusterModel.load(tmp_path / "m")
    assert torch.equal(loaded.head.centroids, head.centroids)
    assert loaded.head.beta == torch.inf
    assert (loaded.source, loaded.seed, loaded.versions) == (None, None, running_versions())


def test_a_second_architecture(tmp_path):
    with pytest.warns(UserWarning, match="random weights"):
        backbone = build_backbone("squeezenet1_0", None, layer="features.5")
    model = ClusterModel(backbone, NeuralizedKMeans(torch.rand(3, backbone.n_features)))
    model.save(tmp_path / "model.ckpt")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(ClusterModel.load(tmp_path / "model.ckpt")(images), model(images))


def test_a_run_folder_stands_for_its_model(model, images, file):
    assert torch.equal(ClusterModel.load(str(file.parent))(images), model(images))


def test_nothing_but_the_file_is_needed(model, images, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes((Path(build_backbone.__code__.co_filename).parent / "glyphnet.pt").read_bytes())
    backbone = build_backbone("glyphnet", str(weights), pool="flatten")
    ClusterModel(backbone, model.head).save(tmp_path / "model.ckpt")
    weights.unlink()
    loaded = ClusterModel.load(tmp_path / "model.ckpt")
    assert torch.equal(loaded(images), model(images))
    assert loaded.backbone.origin["weights"] == str(weights)


def test_saving_twice_gives_the_same_bytes(model, tmp_path):
    model.save(tmp_path / "one.ckpt")
    model.save(tmp_path / "a folder" / "another.pt")
    assert (tmp_path / "one.ckpt").read_bytes() == (tmp_path / "a folder" / "another.pt").read_bytes()


def test_the_file_holds_plain_values_and_tensors(file):
    content = torch.load(file, weights_only=True)
    assert (content["format"], content["format_version"]) == ("whycluster model", FORMAT_VERSION)
    assert "classifier" not in " ".join(content["network"])


@pytest.mark.parametrize("origin", [None, {"name": "mine"}])
def test_a_backbone_that_no_file_can_restore_is_not_saved(model, tmp_path, origin):
    own = Backbone(GlyphNet(), model.backbone.preprocessing, "features", "flatten", origin)
    with pytest.raises(ValueError, match=r"a backbone of one's own .* cannot be saved.*build_backbone"):
        ClusterModel(own, model.head).save(tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())


def test_versions_are_of_what_runs(model):
    versions = ClusterModel(model.backbone, model.head).versions
    assert torch.__version__.startswith(versions["torch"])
    assert set(versions) == {"python", "whycluster", "torch", "torchvision", "scikit-learn", "numpy", "pillow"}


def test_a_save_that_fails_leaves_the_old_file(model, file):
    before = file.read_bytes()
    model.source = {"kind": lambda: None}  # cannot be pickled
    with pytest.raises((AttributeError, pickle.PicklingError)):
        model.save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a checkpoint of whycluster, or damaged"),
        (b"path,cluster\n1.png,3\n", "is not a checkpoint of whycluster, or damaged"),
        (b"PK\x03\x04" + bytes(100), "is not a checkpoint of whycluster, or damaged"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, content, message):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ClusterModel.load(tmp_path / "other")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="is not a checkpoint of whycluster, or damaged"):
        ClusterModel.load(file)


@pytest.mark.parametrize("name", ["missing.ckpt", "", "a/b"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*a train run makes one"):
        ClusterModel.load(tmp_path / name)


def without(*keys):
    def remove(content):
        place = content
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return remove


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.clear(), "is not a checkpoint of whycluster; it wants the model.ckpt"),
        (lambda content: content.update(format="other"), "is not a checkpoint of whycluster; it wants"),
        (
            lambda content: content.update(format_version=FORMAT_VERSION + 1),
            rf"has format {FORMAT_VERSION + 1}, .* reads 1 to {FORMAT_VERSION}; use the .* wrote it, 0\.0\.1",
        ),
        (without("format_version"), "incomplete or damaged .*format_version"),
        (without("backbone"), "incomplete or damaged .*backbone"),
        (without("backbone", "layer"), "incomplete or damaged .*layer"),
        (without("head"), "incomplete or damaged .*head"),
        (without("head", "beta"), "incomplete or damaged .*beta"),
        (without("seed"), "incomplete or damaged .*seed"),
        (without("network"), "incomplete or damaged .*network"),
        (without("network", "network.features.0.weight"), r"1 tensors missing \(network.features.0.weight\)"),
        (lambda content: content.update(network=[1]), "incomplete or damaged|do not fit"),
        (lambda content: content.update(head=None), "incomplete or damaged"),
        (lambda content: content.update(head={"centroids": 3, "beta": 1.0}), "incomplete or damaged"),
        (lambda content: content["head"].update(centroids=torch.rand(3, 7)), "backbone gives 1024 features"),
        (lambda content: content["backbone"].update(name="nonet"), "backbone.name='nonet' is unknown"),
        (lambda content: content["backbone"].update(preprocessing={"resize": 3}), "incomplete or damaged"),
    ],
)
def test_incomplete_files_are_refused(file, change, message):
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)
    with pytest.raises(ValueError, match=message):
        ClusterModel.load(file)


@pytest.mark.parametrize("content", [{"fc.weight": torch.rand(2, 3)}, [1, 2], torch.rand(3)])
def test_weights_alone_are_no_model(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"is not a checkpoint of whycluster; it wants the model\.ckpt"):
        ClusterModel.load(tmp_path / "weights.pt")


class Evil:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_file_is_not_executed(tmp_path, as_zip):
    trace, path = tmp_path / "executed", tmp_path / "model.ckpt"
    content = {"format": "whycluster model", "format_version": FORMAT_VERSION, "head": Evil(trace)}
    if as_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="is not a checkpoint of whycluster, or damaged"):
        ClusterModel.load(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))
    assert trace.exists()


def test_steps_are_part_of_the_file(model, images, tmp_path):
    features = model.backbone(images)
    steps = FeatureSettings(standardize=True, pca=4).fit([features], model.backbone.widths)
    whole = ClusterModel(model.backbone, NeuralizedKMeans(steps(features)[:3]), steps=steps)
    whole.save(tmp_path / "model.ckpt")
    loaded = ClusterModel.load(tmp_path)
    assert torch.equal(loaded(images), whole(images))
    assert torch.equal(loaded.features(images), steps(features))
    assert torch.equal(whole(images), whole.head(steps(features)))


def test_a_file_without_steps_takes_features_as_they_are(model, images, file):
    content = torch.load(file, weights_only=True)
    del content["steps"]
    content["format_version"] = 1
    torch.save(content, file)
    loaded = ClusterModel.load(file)
    assert torch.equal(loaded.features(images), loaded.backbone(images))
    assert torch.equal(loaded(images), model(images))


def test_steps_have_to_fit(model):
    head = NeuralizedKMeans(torch.rand(3, 1024))
    with pytest.raises(ValueError, match=r"gives features \[1024\], and the feature steps take \[5\]"):
        ClusterModel(model.backbone, head, steps=FeatureSteps([5]))
    steps = FeatureSteps([1024], components=torch.rand(7, 1024))
    with pytest.raises(ValueError, match="the feature steps give 7 features, and the head takes 1024"):
        ClusterModel(model.backbone, head, steps=steps)
