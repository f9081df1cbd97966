import pytest

from whycluster.runs import KernelKMeansClusterer, KMeansClusterer


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_clusters": 1},
        {"n_clusters": "3-2"},
        {"n_clusters": "many"},
        {"tol": "abc"},
        {"tol": -1},
        {"beta": -1},
        {"n_init": 0},
    ],
)
def test_impossible_settings_are_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=f"head.{next(iter(wrong))}="):
        KMeansClusterer(**{"n_clusters": 3, **wrong})


@pytest.mark.parametrize("setting", ["auto", "2-20"])
def test_k_means_alone_chooses_the_number_of_clusters(setting):
    assert KMeansClusterer(setting).n_clusters == setting
    with pytest.raises(ValueError, match=f"head.n_clusters='{setting}' should be a number; only head=kmeans"):
        KernelKMeansClusterer(setting)
