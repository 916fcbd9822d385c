"""How detectors and classifiers of other libraries get in: one file per family."""
