"""Linear scores, `argmax_k w_k·x + b_k`, as a neural network that makes exactly the same decisions."""

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.heads.arguments import checked_points
from whycluster.heads.head import Forward, Head, LayerRelevance
from whycluster.heads.pooling import quotients, score_coefficients


class NeuralizedLinear(Head):
    """The neuralized `argmax` of linear scores, of any linear clustering or classifier (a power diagram).

    `h_k = s_c - s_k = w_ck·x + b_ck`, `w_ck = w_c - w_k`, `b_ck = b_c - b_k`, and `f_c = min_{k != c} h_k` (Kauffmann
    et al., arXiv 1906.07633, section III). The differences `w_ck` are never built.

    Args:
        weight: `(K, D)`, finite, `K >= 2`.
        bias: `(K,)`; `None`: zeros.
        beta: as in `Head`.
        centre: `(D,)`, for the midpoint rule: its `m` is the point of each border that is nearest to the centre;
            `None`: the origin. The mean of the data is a good choice.

    Raises:
        UserError: for weights of another shape, fewer than two, or not finite; for a negative `beta`.

    Example:
        >>> import torch
        >>> head = NeuralizedLinear(torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([0., 1.]))
        >>> head(torch.tensor([[3., 1.]]))
        tensor([[ 1., -1.]])
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, beta: float = 1.0, centre: Tensor | None = None
    ) -> None:
        weight = checked_points("weights", weight)
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().to(weight).clone()
        if bias.shape != weight.shape[:1] or not bias.isfinite().all():
            raise UserError(f"the bias should be one finite number for each of {len(weight)} scores.")
        super().__init__(len(weight), weight.new_zeros(weight.shape[1]) if centre is None else centre.to(weight), beta)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def _layer(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias + self.weight @ self.centre

    def _propagate(self, forward: Forward) -> LayerRelevance:
        (w, b), chosen, q = forward.layer, forward.chosen, quotients(forward.pooled, forward.h)

        def offset() -> tuple[Tensor, Tensor]:
            # The nearest point of a border is m_ck = -b_ck / |w_ck|² · w_ck, so that w_ck ∘ m_ck has (w_c - w_k)².
            own, squares = w[chosen], w.square().sum(1)
            lengths = squares[chosen, None] + squares - 2 * own @ w.T  # |w_ck|², (N, K)
            of_bias = (q * (b[chosen, None] - b)).masked_fill(q == 0, 0)
            equal = lengths <= 16 * torch.finfo(w.dtype).eps * (squares[chosen, None] + squares)  # up to rounding
            g = (of_bias / lengths).masked_fill(equal, 0)
            offset = 2 * own * (g @ w) - g.sum(1, keepdim=True) * own.square() - g @ w.square()
            return offset, of_bias.masked_fill(~equal, 0).sum(1)  # scores that differ by their biases alone

        return LayerRelevance(score_coefficients(q, chosen), offset)
