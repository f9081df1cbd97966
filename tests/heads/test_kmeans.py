import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris, load_wine
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from whycluster.heads import HeadAttribution, NeuralizedKMeans, neuralize
from whycluster.heads.kmeans import distance_layer
from whycluster.heads.pooling import SMALLEST_DENOMINATOR

INF = float("inf")
N, K, D = 20, 5, 7


@pytest.fixture
def mu() -> Tensor:
    return torch.randn(K, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 5


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 + 5


# Forward.


def by_definition(x: Tensor, mu: Tensor) -> Tensor:
    d = torch.cdist(x, mu, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    rows = [[min(row[k] for k in range(len(mu)) if k != c) - row[c] for c in range(len(mu))] for row in d]
    return torch.tensor(rows, dtype=x.dtype)


@pytest.mark.parametrize("n_clusters", [2, 3, K])
def test_discriminants_are_their_definition(n_clusters: int, x: Tensor, mu: Tensor) -> None:
    head = NeuralizedKMeans(mu[:n_clusters])
    torch.testing.assert_close(head(x), by_definition(x, mu[:n_clusters]), rtol=1e-10, atol=1e-10)


def test_scores_are_negative_distances_up_to_what_a_row_shares(x: Tensor, mu: Tensor) -> None:
    weight, bias = distance_layer(mu, None)
    expected = x.square().sum(1, keepdim=True) - torch.cdist(x, mu).square()
    torch.testing.assert_close(x @ weight.T + bias, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("load", [load_iris, load_wine, load_digits])
@pytest.mark.parametrize("n_clusters", [3, 10])
def test_the_decision_is_that_of_scikit_learn(load: Any, n_clusters: int) -> None:
    data = load().data
    model = KMeans(n_clusters, n_init=1, random_state=0).fit(data)
    assert np.array_equal(neuralize(model)(torch.from_numpy(data)).argmax(1).numpy(), model.predict(data))


def test_the_decision_far_from_the_origin_in_float32() -> None:
    data = (np.random.default_rng(0).normal(size=(500, 6)) + 1e3).astype(np.float32)
    model = KMeans(8, n_init=1, random_state=0).fit(data.astype(np.float64))
    exact = neuralize(model)(torch.from_numpy(data).double())
    clear = exact.amax(1) > 1e-2  # the rest lies on borders, which the rounding of the centroids moves
    assert clear.double().mean() > 0.95
    head = NeuralizedKMeans(torch.tensor(model.cluster_centers_, dtype=torch.float32))
    f = head(torch.from_numpy(data))
    assert f.dtype == torch.float32
    assert np.array_equal(f.argmax(1)[clear], model.predict(data.astype(np.float64))[clear])
    torch.testing.assert_close(f.double(), exact, rtol=1e-3, atol=1e-2)


def test_relevance_far_from_the_origin_in_float32(x: Tensor, mu: Tensor) -> None:
    near = NeuralizedKMeans(mu).attribute(x)
    far = NeuralizedKMeans((mu + 1e3).float()).attribute((x + 1e3).float())
    torch.testing.assert_close(far.relevance.double(), near.relevance, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(far.relevance.sum(1), far.explained, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.03, 1.0])
def test_probability(beta: float, x: Tensor, mu: Tensor) -> None:
    expected = (-beta * torch.cdist(x, mu).square()).softmax(1)
    torch.testing.assert_close(NeuralizedKMeans(mu, beta).probability(x), expected, rtol=1e-9, atol=1e-12)


def test_probability_of_a_hard_assignment(x: Tensor, mu: Tensor) -> None:
    head = NeuralizedKMeans(mu, INF)
    hard = torch.nn.functional.one_hot(head(x).argmax(1), K).double()
    assert torch.equal(head.probability(x), hard)


# Relevance.


def reference(x: Tensor, mu: Tensor, chosen: list[int], rule: str, beta: float, against: list[int] | None) -> Any:
    """`R_i = Σ_k R_k w_ik (x_i - m_ik) / h_k`, loop by loop; and `Σ_k R_k b_k / h_k`, which the bias keeps."""
    relevance, explained, absorbed = torch.zeros_like(x), x.new_zeros(len(x)), x.new_zeros(len(x))
    for n, c in enumerate(chosen):
        competitors = [k for k in range(len(mu)) if k != c] if against is None else [against[n]]
        h = {k: float(((x[n] - mu[k]) ** 2).sum() - ((x[n] - mu[c]) ** 2).sum()) for k in competitors}
        f = min(h.values())
        p = {k: np.exp(-beta * (h[k] - f)) if beta < INF else float(h[k] == f) for k in competitors}
        for k in competitors:
            p[k] *= min(1, (h[k] / (SMALLEST_DENOMINATOR * f)) ** 2)
        for k in competitors:
            if not p[k]:
                continue
            q = f * p[k] / sum(p.values()) / h[k]
            w, b = 2 * (mu[c] - mu[k]), float((mu[k] ** 2).sum() - (mu[c] ** 2).sum())
            m = (mu[c] + mu[k]) / 2 if rule == "midpoint" else torch.zeros_like(w)
            relevance[n] += q * w * (x[n] - m)
            absorbed[n] += q * b if rule == "zero" else 0
        explained[n] = f
    return HeadAttribution(relevance, explained, absorbed)


def agrees(got: HeadAttribution, expected: HeadAttribution) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10 * max(1, float(theirs.abs().max()))
    torch.testing.assert_close(got.explained, got.relevance.sum(1) + got.absorbed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", [None, 2, "each row its own"])
@pytest.mark.parametrize("beta", [0.0, 0.3, INF])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_relevance_is_its_formula(rule: Any, beta: float, target: Any, x: Tensor, mu: Tensor) -> None:
    target = torch.arange(N) % K if isinstance(target, str) else target
    head = NeuralizedKMeans(mu, beta=0.7)
    chosen = head(x).argmax(1) if target is None else torch.as_tensor(target).expand(N)
    got = head.attribute(x, target, rule=rule, beta=beta)
    agrees(got, reference(x, mu, chosen.tolist(), rule, beta, None))
    assert torch.equal(head.relevance(x, target, rule=rule, beta=beta), got.relevance)
    if target is None:
        torch.testing.assert_close(got.explained, head(x).amax(1))


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("against", [3, "each row its own"])
def test_one_cluster_against_another(against: Any, rule: Any, x: Tensor, mu: Tensor) -> None:
    target = torch.arange(N) % 3
    against = torch.arange(N) % 2 + 3 if isinstance(against, str) else against
    others = torch.as_tensor(against).expand(N)
    got = NeuralizedKMeans(mu).attribute(x, target, against, rule)
    agrees(got, reference(x, mu, target.tolist(), rule, 0, others.tolist()))
    d = torch.cdist(x, mu).square()
    torch.testing.assert_close(got.explained, (d.gather(1, others[:, None]) - d.gather(1, target[:, None]))[:, 0])


def test_the_beta_of_the_head_is_the_default(x: Tensor, mu: Tensor) -> None:
    assert torch.equal(NeuralizedKMeans(mu, 0.3).relevance(x), NeuralizedKMeans(mu).relevance(x, beta=0.3))


def test_midpoint_conserves_and_zero_gives_absent_features_nothing(x: Tensor, mu: Tensor) -> None:
    x[:, 2] = 0
    head = NeuralizedKMeans(mu, 0.2)
    midpoint, zero = head.attribute(x), head.attribute(x, rule="zero")
    torch.testing.assert_close(midpoint.relevance.sum(1), head(x).amax(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(midpoint.absorbed, torch.zeros(N, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (zero.relevance[:, 2] == 0).all()
    assert (midpoint.relevance[:, 2] != 0).any()


def test_midpoint_does_not_depend_on_the_origin(x: Tensor, mu: Tensor) -> None:
    shift = torch.full((D,), 30.0, dtype=torch.float64)
    one, other = NeuralizedKMeans(mu).relevance(x), NeuralizedKMeans(mu + shift).relevance(x + shift)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_a_competitor_at_its_border_does_not_count(rule: Any) -> None:
    mu = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.5], [1.0 + 1e-9, 0.5], [1.0 - 1e-9, 0.5], [1.001, 0.5]], dtype=torch.float64)
    head = NeuralizedKMeans(mu)  # all of them in cluster 2, with h_1 ≈ 0 for cluster 0
    got = head.attribute(x, target=0, rule=rule, beta=0.0)
    agrees(got, reference(x, mu, [0] * 4, rule, 0.0, None))
    assert got.relevance.abs().max() < 2 * got.explained.abs().max() / SMALLEST_DENOMINATOR
    torch.testing.assert_close(got.relevance[1], got.relevance[2], rtol=0, atol=1e-3)
    assert head.competition(x, target=0, beta=0.0)[0].tolist() == [0, 0, 1]
    if rule == "midpoint":
        torch.testing.assert_close(got.relevance.sum(1), got.explained, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("beta", [0.0, 0.3, INF])
def test_duplicated_centroids(beta: float, rule: Any, x: Tensor, mu: Tensor) -> None:
    head = NeuralizedKMeans(torch.cat([mu, mu[:2]]), beta)
    for target in (None, *range(len(head.centroids))):
        got = head.attribute(x, target, rule=rule)
        assert all(part.isfinite().all() for part in got)
        torch.testing.assert_close(got.explained, got.relevance.sum(1) + got.absorbed, rtol=1e-9, atol=1e-9)
    nothing = head.attribute(x, target=0, against=K, rule=rule)
    assert all(part.abs().max() < 1e-9 for part in nothing)


def test_features_at_a_centroid(mu: Tensor) -> None:
    got = NeuralizedKMeans(mu).attribute(mu)
    agrees(got, reference(mu, mu, list(range(K)), "midpoint", 1.0, None))


def test_no_features(x: Tensor, mu: Tensor) -> None:
    head = NeuralizedKMeans(mu)
    assert head(x[:0]).shape == (0, K)
    assert head.relevance(x[:0]).shape == (0, D)


class LargestTensor(TorchDispatchMode):
    """Watches how many entries the largest tensor has that is made."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return made


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_the_weights_are_never_built(rule: Any) -> None:
    n, k, d = 30, 50, 40
    torch.manual_seed(0)
    head, x = NeuralizedKMeans(torch.randn(k, d)), torch.randn(n, d)
    with LargestTensor() as watch:
        head(x)
        head.probability(x)
        for against in (None, 3):
            head.attribute(x, target=torch.arange(n) % 3, against=against, rule=rule)
        head.attribute(x, rule=rule)
    assert 0 < watch.entries <= max(n * k, n * d, k * d)  # less than k * k already


# State.


def test_the_state_comes_back_with_beta(x: Tensor, mu: Tensor) -> None:
    head, file = NeuralizedKMeans(mu, beta=0.123), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other = NeuralizedKMeans(torch.zeros_like(mu))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert float(other.beta) == 0.123
    assert torch.equal(other.relevance(x), head.relevance(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_moves_leave_beta_as_it_is(dtype: torch.dtype, mu: Tensor) -> None:
    head = NeuralizedKMeans(mu.float(), beta=1e-9)  # 0 in half precision
    head = copy.deepcopy(head).to(dtype)
    assert head.centroids.dtype == (dtype if dtype.itemsize > 2 else torch.float32)  # squares would overflow in halves
    assert float(head.beta) == 1e-9
    assert torch.nn.Sequential(head).half()[0] is head
    assert float(head.beta) == 1e-9


def test_the_head_keeps_centroids_of_its_own(mu: Tensor, x: Tensor) -> None:
    head, before = NeuralizedKMeans(mu), mu.clone()
    mu.zero_()
    assert torch.equal(head.centroids, before)
    assert head.n_clusters == K
    assert not list(head.parameters())


def test_features_take_the_precision_of_the_centroids(mu: Tensor, x: Tensor) -> None:
    assert NeuralizedKMeans(mu).relevance(x.float()).dtype == torch.float64
    assert NeuralizedKMeans(mu.float()).relevance(x).dtype == torch.float32


# Errors.


@pytest.mark.parametrize(
    ("centroids", "beta", "sentence"),
    [
        (torch.zeros(1, 3), 1.0, r"shape \(1, 3\).*K >= 2, as one cluster alone has no competitor"),
        (torch.zeros(3), 1.0, r"shape \(3,\)"),
        (torch.zeros(3, 0), 1.0, r"shape \(3, 0\)"),
        (torch.zeros(2, 2, 2), 1.0, r"shape \(2, 2, 2\)"),
        (torch.tensor([[0.0], [torch.nan]]), 1.0, "NaN or infinity"),
        (torch.tensor([[0.0], [torch.inf]]), 1.0, "NaN or infinity"),
        (torch.zeros(2, 3), -0.5, "beta=-0.5 should be a number >= 0"),
        (torch.zeros(2, 3), torch.nan, "beta=nan should be a number >= 0"),
    ],
)
def test_what_no_head_can_be_made_of(centroids: Tensor, beta: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NeuralizedKMeans(centroids, beta)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rule": "gamma"}, "rule='gamma' is unknown; choose 'midpoint' or 'zero'"),
        ({"beta": -1.0}, "beta=-1.0 should be a number >= 0"),
        ({"target": 5}, "target=5 is no cluster of this model; it has clusters 0 to 4"),
        ({"target": -1}, "target=-1 is no cluster"),
        ({"target": torch.tensor([0] * (N - 1) + [9])}, "target=9 is no cluster"),
        ({"against": 7}, "against=7 is no cluster"),
        ({"target": 2, "against": 2}, "explained against itself"),
        ({"target": torch.arange(N) % 3, "against": 1}, "explained against itself"),
    ],
)
def test_what_cannot_be_explained(arguments: dict[str, Any], sentence: str, x: Tensor, mu: Tensor) -> None:
    for explain in (NeuralizedKMeans(mu).attribute, NeuralizedKMeans(mu).relevance):
        with pytest.raises(ValueError, match=sentence):
            explain(x, **arguments)


@pytest.mark.parametrize("features", [torch.zeros(3, D + 1), torch.zeros(D), torch.zeros(2, 3, D)])
def test_features_that_do_not_fit(features: Tensor, mu: Tensor) -> None:
    head = NeuralizedKMeans(mu)
    for use in (head, head.probability, head.relevance):
        with pytest.raises(ValueError, match=r"features of shape .* do not fit this model, which takes \(N, 7\)"):
            use(features)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite(value: float, x: Tensor, mu: Tensor) -> None:
    x[3, 1] = value
    head = NeuralizedKMeans(mu)
    for use in (head, head.probability, head.relevance):
        with pytest.raises(ValueError, match="features of row 3 contain NaN or infinity"):
            use(x)


def test_targets_for_other_rows(x: Tensor, mu: Tensor) -> None:
    with pytest.raises(ValueError, match=r"target of shape \(3,\) should be one cluster, or one for each of 20 rows"):
        NeuralizedKMeans(mu).relevance(x, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("rows", [[["a", "b"]], np.array([[object(), 1]], dtype=object)])
def test_features_that_are_no_numbers(rows: Any) -> None:
    with pytest.raises(ValueError, match="should be numbers"):
        NeuralizedKMeans(torch.eye(2))(rows)


def test_targets_as_scikit_learn_gives_them(x: Tensor, mu: Tensor) -> None:
    head = NeuralizedKMeans(mu)
    labels = head(x).argmax(1)
    assert torch.equal(head.relevance(x, labels.int()), head.relevance(x))  # its labels are int32
    assert torch.equal(head.relevance(x, labels.int().numpy()), head.relevance(x))
