"""Targets: what is predicted, how a label is coded, what a wrong answer costs and how answers are scored."""

from hero_lightning.targets.base import Target
from hero_lightning.targets.kinds import ClassTarget, DistributionTarget, MultilabelTarget, ScoreTarget
from hero_lightning.targets.openset import OpenTarget
from hero_lightning.targets.pair import PairTarget

__all__ = [
    "ClassTarget",
    "DistributionTarget",
    "MultilabelTarget",
    "OpenTarget",
    "PairTarget",
    "ScoreTarget",
    "Target",
]
