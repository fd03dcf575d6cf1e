"""How good a sample of a generator is: distances between distributions, fidelity, variety, intensities, memorisation.

FID is MONAI's, precision and recall are torch-fidelity's. Two quantities are written here: KID, because the libraries
that accept features (torch-fidelity, torchmetrics, MONAI's MMD) want sets of equal size and so throw images away; and
density and coverage, whose only library (prdc, of 2020) prints on every call and starts eight jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from monai.metrics.fid import get_fid_score
from monai.networks.utils import eval_mode
from monai.utils import optional_import
from torch import nn

from monai_plan.metrics.memorisation import memorisation_test
from monai_plan.utils import generator_for, import_torchvision

__all__ = ["GenerationQuality", "density_and_coverage", "frechet_distance", "kernel_distance", "precision_and_recall"]

PRECISION_NEIGHBOURS = 3
"""The choice of Kynkäänniemi et al., NeurIPS 2019."""
COVERAGE_NEIGHBOURS = 5
"""The choice of Naeem et al., ICML 2020."""
ROWS_AT_ONCE = 1024


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """KID (Binkowski et al., ICLR 2018): the unbiased squared MMD under the kernel ``(a.b / F + 1)^3``.

    All pairs enter, whatever the two sizes; its expectation does not depend on them, its spread does. Below 0 by
    chance where the distributions are alike. Not multiplied by 1,000.

    Args:
        x: features, shape [N, F], N >= 2.
        y: features, shape [M, F], M >= 2.
    """
    x, y = x.double(), y.double()

    def total(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.stack([((rows @ b.T / b.shape[1] + 1) ** 3).sum() for rows in a.split(ROWS_AT_ONCE)]).sum()

    def among_others(a: torch.Tensor) -> torch.Tensor:
        itself = ((a.square().sum(dim=1) / a.shape[1] + 1) ** 3).sum()
        return (total(a, a) - itself) / (len(a) * (len(a) - 1))

    return float(among_others(x) + among_others(y) - 2 * total(x, y) / (len(x) * len(y)))


def frechet_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """FID (Heusel et al., NeurIPS 2017) by MONAI's arithmetic.

    With fewer images than features it lies far above its value for many images: compare it at equal sizes only. There,
    both sets are first rotated into the space that they span, which changes nothing but the time: the matrix root is
    then of the number of images, not of features.

    Args:
        x: features, shape [N, F], N >= 2, F >= 2.
        y: features, shape [M, F], M >= 2.
    """
    x, y = x.double(), y.double()
    if len(x) + len(y) < x.shape[1]:
        centre = torch.cat([x, y]).mean(dim=0)
        basis = torch.linalg.qr(torch.cat([x - centre, y - centre]).T).Q
        x, y = (x - centre) @ basis, (y - centre) @ basis
    scale = torch.cat([x, y]).std().clamp_min(1e-12)  # MONAI tolerates rounding of the matrix root in absolute terms
    return float(get_fid_score(x / scale, y / scale) * scale**2)


def precision_and_recall(
    generated: torch.Tensor, real: torch.Tensor, neighbours: int = PRECISION_NEIGHBOURS
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, equations 1 and 2), by torch-fidelity.

    Args:
        generated: features, shape [N, F], N > neighbours.
        real: features, shape [M, F], M > neighbours.
        neighbours: a row's ball reaches to this neighbour among its own kind.

    Returns:
        The share of generated rows within a real row's ball, and of real rows within a generated row's.

    Raises:
        ImportError: torch-fidelity is not installed.
    """
    figures = _precision_library().prc_features_to_metric(
        generated, real, prc_neighborhood=neighbours, prc_batch_size=ROWS_AT_ONCE, save_cpu_ram=True, verbose=False
    )
    return figures["precision"], figures["recall"]


def density_and_coverage(
    generated: torch.Tensor, real: torch.Tensor, neighbours: int = COVERAGE_NEIGHBOURS
) -> tuple[float, float]:
    """Density and coverage (Naeem et al., ICML 2020).

    Args:
        generated: features, shape [N, F], N >= 1.
        real: features, shape [M, F], M > neighbours.
        neighbours: a real row's ball reaches to this real neighbour.

    Returns:
        Density: how many balls a generated row lies in, over ``neighbours``; 1 on average where the distributions are
        alike, above where generated rows crowd among the densest real ones. Coverage: the share of balls that hold a
        generated row; it grows with N (to ``1 - [(M-1)..(M-k)] / [(N+M-1)..(N+M-k)]`` on average where the
        distributions are alike), so compare it at equal sizes only.
    """
    generated, real = generated.double(), real.double()
    inside, covered = 0.0, 0.0
    for rows in real.split(ROWS_AT_ONCE):
        radius = torch.cdist(rows, real).kthvalue(neighbours + 1, dim=1, keepdim=True).values  # the nearest is itself
        held = torch.cdist(rows, generated) < radius
        inside += float(held.sum())
        covered += float(held.any(dim=1).sum())
    return inside / (neighbours * len(generated)), covered / len(real)


class GenerationQuality:
    """Scores samples of a generator against its training images and against held-out ones.

    Features of the real images are extracted once. Give images of equal size everywhere. What a call returns:

    - ``kid``, ``fid`` to held-out images, ``kid_training``, ``fid_training`` to training images. They are taken over
      ``n_compared`` generated images (see :attr:`description`), a fixed choice if more are given.
    - ``precision``, ``recall`` (3 neighbours), ``density``, ``coverage`` (5) against training images, over all images
      given.
    - for each class k of the training images ``recall_<k>`` and ``coverage_<k>``, of that class against itself. A
      class with 5 or fewer training images, or generated ones, has neither: its balls would span the whole class.
    - for each class ``intensity_mean_drift_<k>`` and ``intensity_std_drift_<k>``: mean, and standard deviation, over
      all its generated pixels minus that over all its training pixels, on the scale of [-1, 1].
    - ``memorisation_score``, ``memorisation_p``, ``nearest_training``, ``nearest_held_out``, see
      :func:`memorisation_test`.

    :attr:`floors` is what real images score. Read no figure without it: with 50 held-out images FID is mostly bias.

    Args:
        features: images [B, C, S, S] in [-1, 1] -> [B, F]; usually :class:`ImageFeatures`.
        training_images: [N_t, C, S, S] in [-1, 1], N_t > 5.
        training_labels: whole numbers, [N_t].
        held_out_images: [N_h, C, S, S] of patients outside training, N_h >= 2, class shares as in training.
        held_out_labels: whole numbers, [N_h].
        training_groups: the patient of each training image; ``None`` (for both) for one image a patient.
        held_out_groups: the patient of each held-out image.
        seed: of the choice of images to compare and of the memorisation test.
        num_images: the fewest images that will be given to a call. ``n_compared`` is this number, or N_t if smaller,
            so that the floors and the figures compare equally many.
        batch_size: images whose features are extracted at once.

    Raises:
        ImportError: torch-fidelity is not installed.
        ValueError: too few images, other numbers of images and labels, images of another shape or range.
    """

    def __init__(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        training_images: torch.Tensor,
        training_labels: Sequence[int] | torch.Tensor,
        held_out_images: torch.Tensor,
        held_out_labels: Sequence[int] | torch.Tensor,
        training_groups: Sequence[Any] | torch.Tensor | None = None,
        held_out_groups: Sequence[Any] | torch.Tensor | None = None,
        seed: int = 0,
        num_images: int = 1024,
        batch_size: int = 64,
    ) -> None:
        _precision_library()
        self.features = features
        self.seed = seed
        self.batch_size = batch_size
        self.groups = training_groups, held_out_groups
        self.image_shape = tuple(training_images.shape[1:])
        self.training_labels = self._checked("training", training_images, training_labels, COVERAGE_NEIGHBOURS + 1)
        self.held_out_labels = self._checked("held-out", held_out_images, held_out_labels, 2)
        if num_images <= COVERAGE_NEIGHBOURS:
            raise ValueError(f"num_images is {num_images}; measure more than {COVERAGE_NEIGHBOURS}, better 1,000")
        self.num_compared = min(num_images, len(training_images))
        self.training = self._extract(training_images)
        self.held_out = self._extract(held_out_images)
        self.intensities = self._intensities(training_images, self.training_labels)

    def __call__(self, images: torch.Tensor, labels: Sequence[int] | torch.Tensor) -> dict[str, float]:
        """Score generated images.

        Args:
            images: float, shape [N, C, S, S], range [-1, 1], N >= ``n_compared``.
            labels: the classes asked for, whole numbers, [N].

        Returns:
            The figures by the names that the class lists.

        Raises:
            ValueError: too few images, or images and labels that do not fit.
        """
        labels = self._checked("generated", images, labels, max(self.num_compared, COVERAGE_NEIGHBOURS + 1))
        rows = self._extract(images)
        compared = self._choose(rows)
        figures = {
            "kid": kernel_distance(compared, self.held_out),
            "fid": frechet_distance(compared, self.held_out),
            "kid_training": kernel_distance(compared, self.training),
            "fid_training": frechet_distance(compared, self.training),
        }
        figures["precision"], figures["recall"] = precision_and_recall(rows, self.training)
        figures["density"], figures["coverage"] = density_and_coverage(rows, self.training)
        intensities = self._intensities(images, labels)
        for label, (mean, std) in self.intensities.items():
            generated, real = rows[labels == label], self.training[self.training_labels == label]
            if min(len(generated), len(real)) > COVERAGE_NEIGHBOURS:
                figures[f"recall_{label}"] = precision_and_recall(generated, real)[1]
                figures[f"coverage_{label}"] = density_and_coverage(generated, real)[1]
            if label in intensities:
                figures[f"intensity_mean_drift_{label}"] = intensities[label][0] - mean
                figures[f"intensity_std_drift_{label}"] = intensities[label][1] - std
        copies = memorisation_test(rows, self.training, self.held_out, *self.groups, seed=self.seed)
        return figures | {
            "memorisation_score": copies.score,
            "memorisation_p": copies.p_value,
            "nearest_training": copies.nearest_training,
            "nearest_held_out": copies.nearest_held_out,
        }

    @cached_property
    def floors(self) -> dict[str, float]:
        """What real images score, by the same estimators.

        ``floor_kid`` and ``floor_fid``: ``n_compared`` training images, a fixed choice, against the held-out ones.
        ``floor_precision`` and ``floor_density``: the held-out images in the place of generated ones, if there are
        more than 3; both are means over the images scored, so their number does not shift them. Recall and coverage
        depend on that number and have no floor here; see :func:`density_and_coverage` for coverage.
        """
        compared = self._choose(self.training)
        floors = {
            "floor_kid": kernel_distance(compared, self.held_out),
            "floor_fid": frechet_distance(compared, self.held_out),
        }
        if len(self.held_out) > PRECISION_NEIGHBOURS:
            floors["floor_precision"] = precision_and_recall(self.held_out, self.training)[0]
            floors["floor_density"] = density_and_coverage(self.held_out, self.training)[0]
        return floors

    @property
    def description(self) -> dict[str, Any]:
        """The extractor with its resizer, and the numbers of images, which make two figures comparable."""
        return {
            "extractor": getattr(self.features, "name", type(self.features).__name__),
            "n_training": len(self.training),
            "n_held_out": len(self.held_out),
            "n_compared": self.num_compared,
            "n_training_by_class": _counts(self.training_labels),
            "n_held_out_by_class": _counts(self.held_out_labels),
        }

    def _checked(
        self, name: str, images: torch.Tensor, labels: Sequence[int] | torch.Tensor, least: int
    ) -> torch.Tensor:
        labels = torch.as_tensor(labels).cpu()
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape or labels.shape != (len(images),):
            raise ValueError(
                f"{name} images {tuple(images.shape)} with labels {tuple(labels.shape)}; give [N, C, S, S] with one "
                f"whole number each, C and S as in training, {self.image_shape}"
            )
        if len(images) < least:
            raise ValueError(
                f"{len(images)} {name} images are too few, {least} are needed; give more, or, for generated ones, set "
                "num_images of GenerationQuality to what will be measured"
            )
        if not bool((images.abs() <= 1 + 1e-3).all()):
            raise ValueError(
                f"{name} images lie in {float(images.min()):.4g} .. {float(images.max()):.4g} and must lie in [-1, 1]; "
                "scale or clamp them, or look for NaN in what the generator made"
            )
        return labels

    def _extract(self, images: torch.Tensor) -> torch.Tensor:
        modules = [self.features] if isinstance(self.features, nn.Module) else []
        device = next((parameter.device for module in modules for parameter in module.parameters()), images.device)
        with eval_mode(*modules), torch.no_grad():
            return torch.cat([self.features(part.to(device)).float().cpu() for part in images.split(self.batch_size)])

    def _choose(self, rows: torch.Tensor) -> torch.Tensor:
        order = torch.randperm(len(rows), generator=generator_for(self.seed, "images compared"))
        return rows[order[: self.num_compared]]

    @staticmethod
    def _intensities(images: torch.Tensor, labels: torch.Tensor) -> dict[int, tuple[float, float]]:
        """Mean and standard deviation over all pixels of each class."""
        found = {}
        for label in labels.unique().tolist():
            pixels = images[(labels == label).to(images.device)].double()
            found[int(label)] = float(pixels.mean()), float(pixels.std(correction=0))
        return found


def _counts(labels: torch.Tensor) -> dict[str, int]:
    values, counts = labels.unique(return_counts=True)
    return {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}


def _precision_library():
    advice = 'precision and recall need torch-fidelity: pip install "monai_plan[quality]"'
    try:
        import_torchvision()
    except ImportError as error:
        raise ImportError(advice) from error
    library, found = optional_import("torch_fidelity.metric_prc")
    if not found:
        raise ImportError(advice)
    return library
