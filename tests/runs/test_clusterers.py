import pytest

from whycluster.runs import KMeansClusterer


@pytest.mark.parametrize("wrong", [{"n_clusters": 1}, {"tol": "abc"}, {"tol": -1}, {"beta": -1}, {"n_init": 0}])
def test_impossible_settings_are_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=f"head.{next(iter(wrong))}="):
        KMeansClusterer(**{"n_clusters": 3, **wrong})
