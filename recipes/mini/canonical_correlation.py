"""Regularized canonical correlation analysis: linear maps of image and text features into one space, in closed form.

On a few hundred photographs this beats gradient descent, and it initializes the projections that are trained.

Source: Hotelling, *Relations Between Two Sets of Variates*; the power of the correlations is from Gong et al.,
*A Multi-View Embedding Space for Modeling Internet Images, Tags, and Their Semantics*, equation 7.

Shapes: D image features, F text features, E the shared space.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Second moments of centred features: ``image`` (D, D), ``text`` (F, F) and ``cross`` (D, F)."""

    image: Tensor
    text: Tensor
    cross: Tensor

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.image + other.image, self.text + other.text, self.cross + other.cross)

    def __mul__(self, weight: float) -> "Statistics":
        return Statistics(self.image * weight, self.text * weight, self.cross * weight)


def covariance(features: Tensor) -> Tensor:
    """(n, D) → (D, D)."""
    centred = features - features.mean(dim=0)
    return centred.T @ centred / len(features)


def statistics(images: Tensor, texts: Tensor) -> Statistics:
    """Return the moments of n images (n, V, D) and captions (n, C, F), pairing every view with every caption."""
    mean_images, mean_texts = images.mean(dim=1), texts.mean(dim=1)
    cross = (mean_images - mean_images.mean(dim=0)).T @ (mean_texts - mean_texts.mean(dim=0)) / len(images)
    return Statistics(covariance(images.flatten(0, 1)), covariance(texts.flatten(0, 1)), cross)


def canonical_maps(moments: Statistics, size: int, image_ridge: float, text_ridge: float) -> tuple[Tensor, Tensor]:
    """Return maps (D, E) and (F, E) to the canonical variates, each scaled by its correlation.

    Args:
        moments: Second moments of the training pairs.
        size: E, the number of canonical variates.
        image_ridge: Ridge added to the image moments, in units of their mean eigenvalue.
        text_ridge: The same for the text moments.
    """
    whiten_image = inverse_square_root(moments.image, image_ridge)
    whiten_text = inverse_square_root(moments.text, text_ridge)
    left, correlations, right = torch.linalg.svd(whiten_image @ moments.cross @ whiten_text, full_matrices=False)
    weights = correlations[:size]
    return whiten_image @ left[:, :size] * weights, whiten_text @ right[:size].T * weights


def inverse_square_root(moments: Tensor, ridge: float) -> Tensor:
    """Return the inverse square root of a symmetric matrix, with a ridge in units of its mean eigenvalue."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp(min=0) + ridge * values.mean()
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T
