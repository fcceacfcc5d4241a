"""Networks that find objects: one backbone with two levels of features, and heads that say what their outputs mean."""
