"""The Gaussianised W prior: how far a latent lies from where the generator's mapping network puts them.

W is the output of a leaky ReLU. Undoing it gives V, in which the mapping network's outputs are nearly Gaussian, so that
a squared Mahalanobis distance there is close to their negative log density (Menon et al., PULSE, CVPR 2020,
arXiv 2003.03808; Wulff and Torralba, "Improving Inversion and Generation Diversity in StyleGAN using a Gaussianized
Latent Space", 2020, arXiv 2009.06529). It knows no image: it keeps walks where the generator was trained to render.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from monai.networks.utils import eval_mode

from monai_plan.latent.frozen import device_of
from monai_plan.networks.layers.equalized import LRELU_GAIN, LRELU_SLOPE
from monai_plan.networks.nets import StyleGenerator
from monai_plan.utils import generator_for, load_tensors, save_tensors

__all__ = ["LatentPrior", "gaussianised"]

SHRINKAGE = 0.3
"""Share of the mean variance that every direction gets: cov <- 0.7 cov + 0.3 mean variance.

W hardly varies in many directions, which would become walls: the plain covariance gives the middle of a line between
two samples an energy above 10, though its image is no worse, and makes the term too stiff for a walk's optimiser.
"""


def gaussianised(w: torch.Tensor) -> torch.Tensor:
    """W to V: undo the leaky ReLU (slope 0.2, gain sqrt 2) that ends the mapping network.

    Args:
        w: latents, float, any shape.

    Returns:
        ``w / gain`` where it is >= 0, else ``w / (gain slope)``; differentiable.
    """
    v = w / LRELU_GAIN
    return torch.where(v >= 0, v, v / LRELU_SLOPE)


@dataclass(frozen=True)
class LatentPrior:
    """A Gaussian of each class in V, with one covariance for all.

    Attributes:
        means: of each class, in V, float32, shape [classes, D].
        whitening: float32, shape [D, D]: ``|(v - mean) @ whitening|^2`` is the energy.
        scale: the root mean square, over samples and coordinates, of the deviation of w from its class's mean in W; 0-d
            float32, > 0. Two samples of a class lie about ``scale * sqrt(2 D)`` apart, which makes it the unit for
            lengths and learning rates in W.

    Raises:
        ValueError: a shape, dtype or value is wrong.
    """

    means: torch.Tensor
    whitening: torch.Tensor
    scale: torch.Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in self._tensors().values()]
        width = shapes[0][-1] if len(shapes[0]) == 2 else 0
        if 0 in shapes[0] or shapes[1:] != [(width, width), ()]:
            raise ValueError(f"means [classes, D], whitening [D, D] and scale [] expected, got {shapes}")
        if any(tensor.dtype != torch.float32 for tensor in self._tensors().values()):
            raise ValueError("means, whitening and scale must be float32; convert them with .float()")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self._tensors().values()) or self.scale <= 0:
            raise ValueError(
                f"the latent prior holds NaN or infinite values, or its scale ({float(self.scale)}) is not above 0; "
                "fit it again, to a generator that has not diverged"
            )

    @classmethod
    @torch.no_grad()
    def fit(cls, generator: StyleGenerator, samples: int = 4096, seed: int = 0) -> LatentPrior:
        """Mean of each class and the shared, shrunk covariance of the mapping network's outputs in V.

        Args:
            generator: only ``z_dim``, ``num_classes`` and ``map_latents`` (without truncation) are used.
            samples: latents drawn of each class, more than D.
            seed: equal seeds give equal priors; the global random state is not touched.

        Returns:
            The prior, on the CPU, scaled so that the drawn latents have a mean energy of 1.

        Raises:
            ValueError: ``samples`` is too small, or the generator gives NaN, infinite or constant latents.
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise ValueError(f"samples must be a whole number of latents of each class, got {samples!r}; 4096 is usual")
        device, drawn = device_of(generator), []
        with eval_mode(generator):
            for label in range(max(1, generator.num_classes)):
                z = torch.randn(samples, generator.z_dim, generator=generator_for(seed, "prior", label))
                of_class = torch.full((samples,), label, dtype=torch.int64, device=device)
                drawn.append(generator.map_latents(z.to(device), of_class).double().cpu())
        w = torch.stack(drawn)  # [classes, samples, D]
        width = w.shape[2]
        if samples <= width:
            raise ValueError(
                f"{samples} samples of each class cannot show how {width} coordinates vary together; set samples to "
                f"{max(4096, 8 * width)}, which takes a second"
            )
        deviation_w = w - w.mean(dim=1, keepdim=True)
        scale = deviation_w.square().mean().sqrt()
        if not torch.isfinite(scale) or scale == 0:
            raise ValueError(
                f"the generator's latents vary by {float(scale)} within a class: they are NaN, infinite or constant. "
                "Its training diverged or has not begun; check the weights that were loaded"
            )
        v = gaussianised(w)
        means = v.mean(dim=1)
        deviation = (v - means.unsqueeze(1)).flatten(0, 1)
        covariance = deviation.T @ deviation / len(deviation)
        floor = covariance.diagonal().mean() * torch.eye(width, dtype=covariance.dtype)
        whitening = torch.linalg.inv(torch.linalg.cholesky(torch.lerp(covariance, floor, SHRINKAGE))).T
        unit = (deviation @ whitening).square().sum(dim=1).mean().sqrt()
        return cls(means.float(), (whitening / unit).float(), scale.float())

    def energy(self, w: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The squared Mahalanobis distance in V to the class's mean, over its mean for the mapping network's outputs.

        It is 1 on average for latents that the mapping network makes and, D being large, not far from 1 for each;
        about 0.5 to 0.7 in the middle between two of them, and near 0 at the mean; it grows with the square of the
        distance beyond. A walk that must neither leave the manifold nor be drawn to the mean image takes
        ``|energy - 1|``. Differentiable in ``w``; one D x D product.

        Args:
            w: latents, float, shape [N, D], on the prior's device (see :meth:`to`).
            labels: their classes, int64, shape [N].

        Returns:
            Energies, shape [N], >= 0.

        Raises:
            ValueError: the shapes do not fit, a latent is not finite, or a class is unknown.
        """
        classes, width = self.means.shape
        if w.ndim != 2 or w.shape[1] != width or labels.shape != w.shape[:1]:
            raise ValueError(
                f"latents [N, {width}] and labels [N] expected, got {tuple(w.shape)} and {tuple(labels.shape)}; with "
                "another width the prior belongs to another generator: LatentPrior.fit(generator)"
            )
        finite, known = torch.isfinite(w).all(), ((labels >= 0) & (labels < classes)).all()
        if not bool(finite & known):
            raise ValueError(
                f"labels lie in {int(labels.min())} .. {int(labels.max())}, but the prior has {classes} class(es); the "
                "anchors were probably labelled otherwise than the generator's training images"
                if finite
                else "latents hold NaN or infinite values; the walk that made them diverged: lower its learning rate"
            )
        return ((gaussianised(w) - self.means[labels]) @ self.whitening).square().sum(dim=1)

    def to(self, device: str | torch.device) -> LatentPrior:
        """The same prior on another device."""
        return LatentPrior(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def save(self, path: str | os.PathLike) -> Path:
        """Write the prior as tensors only (schema ``latent_prior``)."""
        return save_tensors(path, self._tensors(), schema="latent_prior")

    @classmethod
    def load(cls, path: str | os.PathLike) -> LatentPrior:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or of another kind.
        """
        tensors, _ = load_tensors(path, schema="latent_prior")
        names = {field.name for field in fields(cls)}
        if set(tensors) != names:
            raise ValueError(f"'{path}' holds {sorted(tensors)}, and {sorted(names)} are needed; fit the prior again")
        return cls(**tensors)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
