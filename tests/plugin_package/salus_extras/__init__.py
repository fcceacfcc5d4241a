"""A package of another hospital: a task, a model, a transform, a strategy and a loss, each in one file, for Salus to find."""
