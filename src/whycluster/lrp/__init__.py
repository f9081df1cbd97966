"""Layer-wise relevance propagation: relevance of a network's output `->` relevance of its pixels."""

from whycluster.lrp.composites import (
    COMPOSITES,
    Composite,
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    First,
    Residual,
    named_composite,
)
from whycluster.lrp.forward_cache import ForwardCache
from whycluster.lrp.linear_maps import (
    Add,
    AveragePool,
    BatchNorm,
    Bilinear,
    Convolution,
    LayerNorm,
    Linear,
    LinearMap,
    MatrixProduct,
    Shift,
    TokenLinear,
)
from whycluster.lrp.lrp import LRP
from whycluster.lrp.receipts import Attribution, Receipt
from whycluster.lrp.rules import (
    AlphaBeta,
    Contribution,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Product,
    Ratio,
    Rule,
    WSquare,
    ZBox,
    ZPlus,
)
from whycluster.lrp.steps import Attention

__all__ = ["LRP", "Attention", "Attribution", "ForwardCache", "Receipt"]
__all__ += ["COMPOSITES", "Composite", "First", "Residual", "named_composite"]
__all__ += ["EpsilonAlpha2Beta1", "EpsilonGammaBox", "EpsilonPlus", "EpsilonPlusFlat"]
__all__ += ["AlphaBeta", "Contribution", "Epsilon", "Flat", "Gamma", "Norm", "Product", "Ratio", "Rule"]
__all__ += ["WSquare", "ZBox", "ZPlus"]
__all__ += ["Add", "AveragePool", "BatchNorm", "Bilinear", "Convolution", "LayerNorm", "Linear", "LinearMap"]
__all__ += ["MatrixProduct", "Shift", "TokenLinear"]
