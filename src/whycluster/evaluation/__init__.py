"""Is the explanation right? Measured without labels: flipping, masks, baselines, and sanity checks."""

from whycluster.evaluation.evaluation import Evaluation
from whycluster.evaluation.evaluator import OURS, Evaluator
from whycluster.evaluation.methods import BASELINES

__all__ = ["BASELINES", "OURS", "Evaluation", "Evaluator"]
