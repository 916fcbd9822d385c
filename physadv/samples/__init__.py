"""How many samples robustness takes: in a model that has an answer, and for photographs, by their learning curves."""
