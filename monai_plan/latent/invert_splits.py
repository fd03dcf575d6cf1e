"""Invert whole splits of a data list, with progress, and go on where a killed run stopped."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import nn

from monai_plan.latent.aggregation import PatientLatents, average_by_patient
from monai_plan.latent.inversion import InversionOptions, check_images, invert_batch
from monai_plan.latent.inverted_images import InvertedImages
from monai_plan.latent.prior import LatentPrior
from monai_plan.networks.nets import LatentEncoder, StyleGenerator
from monai_plan.utils import (
    PlanKeys,
    fingerprint,
    generator_for,
    patient_of,
    pseudonym,
    require_counts,
    require_writable,
    weights_digest,
)

__all__ = ["invert_splits", "latents_by_patient"]

logger = logging.getLogger(__name__)
tqdm, has_tqdm = optional_import("tqdm", name="tqdm")

SAVED_EVERY = 30.0
"""Seconds between two savings of what is done."""

Item = Mapping[str, Any]


def invert_splits(
    splits: Mapping[str, Sequence[Item]],
    load_image: Callable[[Item], Item],
    path: str | os.PathLike,
    generator: StyleGenerator,
    features: nn.Module,
    encoder: LatentEncoder,
    prior: LatentPrior | None = None,
    options: InversionOptions | None = None,
    batch_size: int = 32,
    key: bytes | None = None,
    seed: int = 0,
    progress: bool = True,
) -> InvertedImages:
    """Invert every image of some splits and save them.

    What is done is kept beside ``path`` (with ``.part`` before the suffix), so that the same call goes on after a kill
    and gives what it would have given. With other networks, options or items, or where the first image is read
    otherwise than before, it begins anew.

    Args:
        splits: name to items of the data list, e.g. the training split and one of other patients to compare with.
        load_image: item -> the same with ``image`` [C, H, W] in [-1, 1]; always the same for an item.
        path: the file to write, in the private room; its mode will be 0600.
        generator, features, encoder, options, seed: see :func:`~monai_plan.latent.invert_batch`.
        prior: of this generator; ``None`` fits it.
        batch_size: images side by side.
        key: puts keyed pseudonyms in the place of patients' and images' names, see :func:`monai_plan.utils.pseudonym`.
        progress: show a progress bar where tqdm is installed.

    Returns:
        The images in the order of the splits and of their items.

    Raises:
        OSError: the file cannot be written; found before the work begins.
        ValueError: there are no items, an item names neither patient nor group or has no known label, or an image
            cannot be used.
    """
    require_counts(batch_size=batch_size)
    options, path = options or InversionOptions(), Path(path)
    work = [(name, item) for name, items in splits.items() for item in items]
    if not work:
        raise ValueError(f"the splits {sorted(splits)} hold no images to invert; check the data list")

    def named(name: str) -> str:
        return name if key is None else pseudonym(name, key)

    patients = tuple(named(patient_of(item)) for _, item in work)
    images = tuple(named(str(item[PlanKeys.IMAGE])) for _, item in work)
    in_splits = tuple(name for name, _ in work)
    labels = torch.tensor([_label_of(item, generator) for _, item in work])
    width = (generator.w_dim,) if options.space == "w" else (generator.num_ws, generator.w_dim)
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; give the file to write in it, e.g. latents.safetensors")
    require_writable(path.absolute().parent, 3 * len(work) * (4 * math.prod(width) + 500))
    first = _pixels(work[0][1], load_image, generator)
    if prior is not None and prior.means.shape != (max(1, generator.num_classes), generator.w_dim):
        raise ValueError(
            f"the prior has {prior.means.shape[0]} class(es) of width {prior.means.shape[1]}, and the generator "
            f"{generator.num_classes} of {generator.w_dim}: LatentPrior.fit(generator)"
        )
    digests = [weights_digest(network) for network in (generator, encoder, features)]
    meta = {
        "generator": digests[0],
        "space": options.space,
        "inputs": fingerprint(
            *(*digests, asdict(options), patients, images, in_splits, labels.tolist(), batch_size, seed),
            None if prior is None else [prior.means.tolist(), prior.whitening.tolist(), prior.scale.tolist()],
            (100 * first).round().int().tolist(),  # coarse, since rounding may differ between machines
        ),
    }
    prior = prior or LatentPrior.fit(generator)
    part_file = path.with_suffix(f".part{path.suffix}")
    done = _begun(part_file, meta["inputs"]) or _begun(path, meta["inputs"])
    if done is None:
        done = InvertedImages.none((0, *width), meta)
    saved, starts = time.monotonic(), range(len(done), len(work), batch_size)
    if progress and has_tqdm:
        before = len(done) // batch_size
        starts = tqdm(starts, desc="inversion", unit="batch", initial=before, total=before + len(starts))
    for start in starts:
        part = slice(start, start + batch_size)
        pixels = torch.stack([_pixels(item, load_image, generator) for _, item in work[part]])
        of_batch = generator_for(seed, "inversion", start).initial_seed()
        found = invert_batch(pixels, labels[part], generator, features, encoder, prior, options, of_batch)
        tensors = (found.latents, labels[part], found.perceptual_error, found.pixel_error)
        done = done.joined(InvertedImages(*tensors, patients[part], images[part], in_splits[part], meta))
        if time.monotonic() - saved > SAVED_EVERY:
            done.save(part_file)
            saved = time.monotonic()
    done.save(path)
    part_file.unlink(missing_ok=True)
    return done


def _label_of(item: Item, generator: StyleGenerator) -> int:
    classes = max(1, generator.num_classes)
    if item.get(PlanKeys.LABEL) not in range(classes):
        raise ValueError(
            f"the item {dict(item)} must have a label from 0 to {classes - 1}, as the generator's training images; the "
            "datalist is another one"
        )
    return int(item[PlanKeys.LABEL])


def _pixels(item: Item, load_image: Callable[[Item], Item], generator: StyleGenerator) -> torch.Tensor:
    """The item's image, float32 [C, H, W] on the CPU."""
    loaded = torch.as_tensor(load_image(item)[PlanKeys.IMAGE]).as_subclass(torch.Tensor).float().cpu()
    try:
        check_images(loaded.unsqueeze(0), torch.zeros(1), generator)
    except ValueError as error:
        raise ValueError(f"the image '{item[PlanKeys.IMAGE]}' cannot be inverted: {error}") from error
    return loaded


def _begun(part_file: Path, inputs: str) -> InvertedImages | None:
    """What a killed run of the same inputs has left."""
    try:
        found = InvertedImages.load(part_file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("the images are inverted from the first on: %s", error)
        return None
    if found.meta.get("inputs") != inputs:
        logger.warning("the images are inverted from the first on: '%s' is of other inputs", part_file)
        return None
    logger.info("%d images were inverted before, the others follow", len(found))
    return found


def latents_by_patient(inverted: InvertedImages, generator: StyleGenerator) -> PatientLatents:
    """The averaged latent of each patient of the training split, from which anchors are made.

    Args:
        inverted: of :func:`invert_splits`.
        generator: that the anchors are for.

    Raises:
        ValueError: the images were inverted into W+, or for another generator, or none is of the training split.
    """
    if inverted.space != "w":
        raise ValueError(
            "these images were inverted into W+, and walks run in W. Invert them once more, with "
            "inversion#options#space=w (and another latents_file, if W+ is still wanted)"
        )
    if inverted.meta.get("generator") != weights_digest(generator):
        raise ValueError(
            "the latents were found for another generator, in whose W they mean something else; invert the images once "
            "more (invert.json)"
        )
    training = inverted.of_split("training")
    return average_by_patient(training.latents, training.labels, training.patients)
