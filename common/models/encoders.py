"""Networks that can describe one image of several, by name: those for recognition, built with features in place of classes.

They are a registry of their own, so that a network with an encoder cannot be its own encoder. A site adds its own through the
entry-point group ``salus.encoders``.
"""

from salus.common.registry import Registry

NAMES = (
    "cnn", "convnext", "densenet", "densenet121", "efficientnet", "inception", "logistic", "resnet18", "resnet50", "vgg", "vit",
)  # fmt: skip
ENCODERS = Registry("encoder", "salus.encoders", {name: f"salus.common.models.{name}:build" for name in NAMES})
