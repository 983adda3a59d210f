"""A multivariate normal distribution, which measures how unusual something is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of n variables.

    Attributes:
        mean: float64 [n].
        root: float64 [n, n], upper triangular: root.T @ root is the inverse covariance.
    """

    mean: NDArray[np.float64]
    root: NDArray[np.float64]

    def distance(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Mahalanobis distance of float64 [..., n] to the mean: float64 [...]."""
        return np.asarray(np.linalg.norm((x - self.mean) @ self.root.T, axis=-1))

    def deviations(self) -> NDArray[np.float64]:
        """Return the standard deviations of the variables: float64 [n]."""
        inverse = np.linalg.inv(self.root)
        return np.asarray(np.sqrt((inverse**2).sum(axis=1)))
