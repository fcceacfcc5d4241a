"""Networks that generate images of a class."""
