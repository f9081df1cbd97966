"""Evaluation of explanations without labels: patch flipping, masks, baselines, and sanity checks."""

from whycluster.evaluation.evaluator import OURS, Evaluator
from whycluster.evaluation.methods import BASELINES
from whycluster.evaluation.results import Evaluation

__all__ = ["BASELINES", "OURS", "Evaluation", "Evaluator"]
