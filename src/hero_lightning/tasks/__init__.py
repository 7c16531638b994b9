"""Targets: what is predicted, how a label is coded, what a wrong answer costs and how answers are scored."""

from hero_lightning.tasks.base import Target
from hero_lightning.tasks.kinds import ClassTarget, DistributionTarget, MultilabelTarget, ScoreTarget
from hero_lightning.tasks.openset import OpenTarget
from hero_lightning.tasks.pair import PairTarget

__all__ = [
    "ClassTarget",
    "DistributionTarget",
    "MultilabelTarget",
    "OpenTarget",
    "PairTarget",
    "ScoreTarget",
    "Target",
]
