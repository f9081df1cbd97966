"""Layer-wise relevance propagation: relevance of a network's output `->` relevance of its pixels."""

from whycluster.lrp.composites import (
    COMPOSITES,
    Composite,
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    Residual,
    Row,
    named_composite,
)
from whycluster.lrp.linear_maps import Add, AveragePool, BatchNorm, Convolution, LayerNorm, Linear, Shift
from whycluster.lrp.propagation import LRP
from whycluster.lrp.receipts import Attribution, Receipt
from whycluster.lrp.recording import Recording
from whycluster.lrp.shares import Share, Signal, Term

__all__ = [
    "COMPOSITES",
    "LRP",
    "Add",
    "Attribution",
    "AveragePool",
    "BatchNorm",
    "Composite",
    "Convolution",
    "EpsilonAlpha2Beta1",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "LayerNorm",
    "Linear",
    "Receipt",
    "Recording",
    "Residual",
    "Row",
    "Share",
    "Shift",
    "Signal",
    "Term",
    "named_composite",
]
