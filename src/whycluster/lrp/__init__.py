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
from whycluster.lrp.propagation import LRP
from whycluster.lrp.receipts import Attribution, Receipt
from whycluster.lrp.recording import Recording

__all__ = [
    "COMPOSITES",
    "LRP",
    "Attribution",
    "Composite",
    "EpsilonAlpha2Beta1",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "Receipt",
    "Recording",
    "Residual",
    "Row",
    "named_composite",
]
