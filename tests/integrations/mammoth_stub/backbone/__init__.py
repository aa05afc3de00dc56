"""`MammothBackbone`, of one hidden layer."""

from __future__ import annotations

from torch import Tensor, nn


class MammothBackbone(nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, returnt: str = "out") -> Tensor | tuple[Tensor, Tensor]:
        features = self.body(x.flatten(1))
        if returnt == "features":
            out: Tensor = features
            return out
        logits: Tensor = self.classifier(features)
        return (logits, features) if returnt == "both" else logits
