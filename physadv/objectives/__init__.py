"""L: what the adversary minimises, and the success test that also judges real photographs."""

from physadv.objectives.classification import DEFAULT_KAPPA, CrossEntropy, Margin, Objective, make_objective
from physadv.objectives.detection import Detection, make_detection_objective
from physadv.objectives.expectation import Expectation, parse_expectation
from physadv.objectives.goals import ABSTAIN, Goal, check_goal, parse_detection_goal, parse_goal

__all__ = [
    "ABSTAIN",
    "DEFAULT_KAPPA",
    "CrossEntropy",
    "Detection",
    "Expectation",
    "Goal",
    "Margin",
    "Objective",
    "check_goal",
    "make_detection_objective",
    "make_objective",
    "parse_detection_goal",
    "parse_expectation",
    "parse_goal",
]
