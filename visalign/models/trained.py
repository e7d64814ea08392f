"""What every model that is trained has in common: its weights, and a reference that may follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .weights import Full, Lora, follow

if TYPE_CHECKING:
    from .users import Users


class Trained(nn.Module):
    """A network held by its weights; which kernel its attention took is in `attention`, where that was chosen."""

    weights: Lora | Full | Users

    def __init__(self, weights: Lora | Full | Users, resolution: Any = None) -> None:
        super().__init__()
        self.weights = weights
        self.attention = resolution

    @property
    def network(self) -> Any:
        """The network that is trained."""
        return self.weights.network

    def compile_networks(self) -> None:
        """Compile policy and reference alike: two kernels of one network differ by more than a logit can bear."""
        self.network.compile()
        if isinstance(self.weights, Full) and self.weights.frozen is not None:
            self.weights.frozen.compile()

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes, by name."""
        return self.weights.trainable()

    def follower(self) -> dict[str, nn.Parameter]:
        """The reference's parameters by the names of the trained ones that they follow; empty if it stays."""
        return self.weights.follower()

    def follow(self, decay: float) -> None:
        """Take the reference along: decay x itself + (1 - decay) x what is trained."""
        follow(self.weights, decay)
