"""Features and contexts of earlier rows, for losses that compare a batch with a sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.errors import ConfigurationError, ShapeError

__all__ = ["FeatureBank"]


class FeatureBank(nn.Module):
    """The last rows that had a modality, without gradients: a ring of fixed size.

    A batch of 16 has some ten rows with a given modality, too few to stand for its distribution given a context. The
    bank adds earlier ones to the observed side. They come from earlier parameters of the encoder: keep it short
    compared with the time in which these change. Its content is saved with the module.

    Args:
        capacity: Largest number of rows R.
        feature_dim: Width D of the features.
        context_dim: Width E of the contexts.

    Raises:
        ConfigurationError: If a size is not positive.

    Example:
        >>> import torch
        >>> bank = FeatureBank(capacity=3, feature_dim=1, context_dim=1)
        >>> for step in range(2):
        ...     bank.push(torch.full((2, 1), float(step)), torch.zeros(2, 1))
        >>> bank.rows()[0].flatten()
        tensor([0., 1., 1.])
    """

    features: Tensor
    contexts: Tensor
    pushed: Tensor

    def __init__(self, capacity: int, feature_dim: int, context_dim: int):
        super().__init__()
        if min(capacity, feature_dim, context_dim) < 1:
            raise ConfigurationError(
                "a bank needs positive sizes", expected=">= 1", got=(capacity, feature_dim, context_dim)
            )
        self.capacity = capacity
        self.register_buffer("features", torch.zeros(capacity, feature_dim))
        self.register_buffer("contexts", torch.zeros(capacity, context_dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Number of rows remembered."""
        return min(int(self.pushed), self.capacity)

    @torch.no_grad()
    def push(self, features: Tensor, contexts: Tensor) -> None:
        """Remember rows, forgetting the oldest ones beyond the capacity.

        Args:
            features: Of shape (n, D).
            contexts: Of shape (n, E).

        Raises:
            ShapeError: If the widths are not the bank's, or the numbers of rows differ.
        """
        for name, given, kept in (("features", features, self.features), ("contexts", contexts, self.contexts)):
            if given.dim() != 2 or given.shape[1] != kept.shape[1] or len(given) != len(features):
                raise ShapeError(
                    f"{name} do not fit the bank",
                    expected=f"({len(features)}, {kept.shape[1]})",
                    got=tuple(given.shape),
                )
        start = int(self.pushed) + max(len(features) - self.capacity, 0)
        new = min(len(features), self.capacity)
        places = torch.arange(start, start + new, device=self.features.device) % self.capacity
        self.features[places] = features[len(features) - new :].to(self.features)
        self.contexts[places] = contexts[len(contexts) - new :].to(self.contexts)
        self.pushed += len(features)

    def rows(self) -> tuple[Tensor, Tensor]:
        """What is remembered, oldest first.

        Returns:
            Features (R, D) and contexts (R, E), as copies that later pushes do not change.
        """
        count, first = len(self), max(int(self.pushed) - self.capacity, 0)
        places = (first + torch.arange(count, device=self.features.device)) % self.capacity
        return self.features[places], self.contexts[places]
