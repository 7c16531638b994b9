"""Tasks: the encoding of a label, its loss, its prediction and its metrics."""

from hero_lightning.tasks.base import Task
from hero_lightning.tasks.kinds import ClassTask, DistributionTask, MultilabelTask, ScoreTask
from hero_lightning.tasks.openset import OpenTask
from hero_lightning.tasks.pair import PairTask

__all__ = [
    "ClassTask",
    "DistributionTask",
    "MultilabelTask",
    "OpenTask",
    "PairTask",
    "ScoreTask",
    "Task",
]
