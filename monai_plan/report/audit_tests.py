"""The tests of an audit by their ids: which attack, on what, or why it cannot be carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from monai_plan.latent.gate import PrivacyGate
from monai_plan.latent.gate_audit import gate_false_rejections, gate_planted_copies
from monai_plan.metrics import (
    AttackResult,
    RealPatients,
    canary_audit,
    density_ratio_scores,
    density_ratio_spread,
    inference,
    linkability,
    membership_attack,
    membership_network,
    near_copies,
    nearest_synthetic_scores,
    reidentification,
    screening,
    singling_out,
)
from monai_plan.report.audit_material import EMBEDDING, HELD_OUT, AuditMaterial
from monai_plan.utils import PlanKeys, patient_of

__all__ = ["TESTS", "AuditTargets"]

GUESSES = 1000
"""Synthetic images around which a singling-out guess is made at most; their distances to each other are needed."""
JUDGED_AT_ONCE = 64
RADIUS = 0.5
"""Of the ball around a guess, in distances to the nearest synthetic image of another path."""

Found = AttackResult | str
"""What an attack found, or why it was not carried out."""


class InversionErrors(Protocol):
    """What is read of real images inverted by the generator."""

    patients: Sequence[str]
    splits: Sequence[str]
    labels: torch.Tensor
    pixel_error: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class AuditTargets:
    """What an attacker holds beside the synthetic images, each ``None`` where there is none.

    Args:
        classifier: trained on synthetic images alone, images -> logits.
        real_classifier: the same trained on the real training images: what the attack on classifiers can do.
        gate: the gate behind the walk.
        discriminator: of the generator's training, images and labels -> logits: what an insider holds.
        inverted: real images of training and held-out patients inverted by the generator.
        groups: of patients behind the anchors, see :func:`monai_plan.latent.groups_behind`.
    """

    classifier: nn.Module | None = None
    real_classifier: nn.Module | None = None
    gate: PrivacyGate | None = None
    discriminator: nn.Module | None = None
    inverted: InversionErrors | None = None
    groups: Mapping[str, Any] | None = None


def _screening(material: AuditMaterial, distance: str) -> Found:
    to_real, among_real = material.to_real[distance], material.among_real[distance]
    return screening(to_real, among_real, material.real, material.seed, distance)


def _near_copies(material: AuditMaterial, distance: str) -> Found:
    to_real, among_real = material.to_real[distance], material.among_real[distance]
    return near_copies(to_real, among_real, material.real, material.seed, distance)


def _told_by(
    name: str, scores: torch.Tensor, material: AuditMaterial, spread: float = 0.0, **details: Any
) -> AttackResult:
    """Membership by scores of the real images; the same between two splits that nothing was trained on."""
    rows = material.rows(*HELD_OUT)
    validation = material.rows("validation")[rows]
    names = tuple(patient for patient, row in zip(material.real.patients, rows.tolist(), strict=True) if row)
    counts = [len({n for n, v in zip(names, validation.tolist(), strict=True) if v is side}) for side in (True, False)]
    if min(counts) > 1:
        strangers = membership_attack(
            name,
            scores[rows],
            RealPatients(names, validation, material.real.labels[rows]),
            material.seed,
            spread=spread,
        )
        figures = {"value": strangers.value, "interval": list(strangers.interval)}
        details["validation_against_testing"] = figures
    return membership_attack(name, scores, material.real, material.seed, details, spread)


def _membership_distance(material: AuditMaterial, distance: str) -> Found:
    scores = nearest_synthetic_scores(material.to_real[distance])
    return _told_by("membership_distance", scores, material, distance=distance)


def _membership_density(material: AuditMaterial, distance: str) -> Found:
    to_real, among_real = material.to_real[distance], material.among_real[distance]
    neighbours = max(1, min(5, material.real.held_out - 1, len(to_real)))
    made_from = (to_real, among_real, material.real, neighbours, material.seed)
    scores, spread = density_ratio_scores(*made_from), density_ratio_spread(*made_from)
    return _told_by("membership_density", scores, material, spread, distance=distance)


def _membership_network(material: AuditMaterial, targets: AuditTargets) -> Found:
    if targets.classifier is None:
        return "no classifier trained on the synthetic images was given"
    rows = material.rows("training", "testing")  # the validation images have chosen its epoch
    real = material.real.part(rows)
    if real.members < 4 or real.held_out < 2:
        return "there are too few patients to train an attacker's network on some and to judge others"
    folds = max(2, min(5, real.members // 2, real.held_out))
    found = membership_network(material.outputs(targets.classifier)[rows], real, material.seed, folds)
    if targets.real_classifier is not None:
        known = membership_network(material.outputs(targets.real_classifier)[rows], real, material.seed, folds)
        found.details["trained_on_real_images"] = {"value": known.value, "interval": list(known.interval)}
    return found


@torch.no_grad()
def _membership_discriminator(material: AuditMaterial, targets: AuditTargets) -> Found:
    discriminator = targets.discriminator
    if discriminator is None:
        return "the discriminator of the generator's training was not kept (config id discriminator_file)"
    device = next(discriminator.parameters()).device
    scores = [  # one by one: its minibatch deviation would let the images of a batch change each other's score
        discriminator.eval()(image[None].to(device), label[None].to(device)).float().cpu().flatten()
        for image, label in zip(material.real_images, material.real.labels, strict=True)
    ]
    return _told_by("membership_discriminator", torch.cat(scores), material)


def _membership_reconstruction(material: AuditMaterial, targets: AuditTargets) -> Found:
    inverted = targets.inverted
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for split, patient in zip(inverted.splits, inverted.patients, strict=True) if inverted else ():
        sides[split == "training"].add(patient)
    if inverted is None or min(map(len, sides.values())) < 2:
        return "no images of training and of held-out patients were inverted (stage invert)"
    member = torch.tensor([split == "training" for split in inverted.splits])
    real = RealPatients(tuple(inverted.patients), member, inverted.labels)
    details = {"error": "mean squared error of pixels"}
    return membership_attack("membership_reconstruction", -inverted.pixel_error, real, material.seed, details)


def _membership_shadow(material: AuditMaterial, targets: AuditTargets) -> Found:
    return (
        "it needs many generators trained on random halves of the patients; benchmarks/audit.py does that on phantoms"
    )


def _reidentification(material: AuditMaterial, targets: AuditTargets) -> Found:
    probe = material.verification.probe  # patients whom the network has not seen
    to_real, among_real = material.to_real[EMBEDDING][:, probe], material.among_real[EMBEDDING][probe][:, probe]
    part = material.real.part(probe)
    share = part.members / material.real.members
    found = reidentification(to_real, among_real, part, material.seed, EMBEDDING, members_share=share)
    found.details["trained_on_pairs_of"] = material.verification.pairs
    return found


def _singling_out(material: AuditMaterial, targets: AuditTargets) -> Found:
    distance, images, paths = material.names[0], material.synthetic_images[:GUESSES], material.paths[:GUESSES]
    among = material.distances(distance, images, images)
    nearest = among.masked_fill(paths[:, None] == paths[None], torch.inf).amin(dim=1)
    if not torch.isfinite(nearest).all():
        return "all synthetic images are of one path, so nothing tells how far apart they lie"
    return singling_out(material.to_real[distance][:GUESSES], RADIUS * nearest, material.real, material.seed)


def _linkability(material: AuditMaterial, targets: AuditTargets) -> Found:
    half = material.real_images.shape[-1] // 2
    left, right = (_half_hidden(material, hidden) for hidden in (slice(half, None), slice(None, half)))
    return linkability(left, right, material.real)


def _half_hidden(material: AuditMaterial, hidden: slice) -> torch.Tensor:
    """Distances [N, paths] of images with some columns blackened."""
    real, synthetic = material.real_images.clone(), material.synthetic_images.clone()
    real[..., hidden] = synthetic[..., hidden] = -1
    return material.to_paths(material.distances(material.names[0], real, synthetic))


def _inference(material: AuditMaterial, targets: AuditTargets) -> Found:
    return inference(material.to_real[material.names[0]], material.synthetic_labels, material.real)


def _canaries(material: AuditMaterial, targets: AuditTargets) -> Found:
    items = material.canaries()
    if not items:
        return "no coins were thrown for training patients (config id canaries#count)"
    distance = material.names[0]
    scores = nearest_synthetic_scores(material.distances(distance, material.synthetic_images, material.stacked(items)))
    best: dict[str, float] = {}
    left_in: dict[str, bool] = {}
    for item, score in zip(items, scores.tolist(), strict=True):
        name = patient_of(item)
        best[name], left_in[name] = max(score, best.get(name, score)), item[PlanKeys.CANARY]
    return canary_audit(torch.tensor(list(best.values())), torch.tensor(list(left_in.values())), material.seed)


def _gate_planted_copies(material: AuditMaterial, targets: AuditTargets) -> Found:
    if targets.gate is None:
        return "there is no gate"
    training, unseen = material.of_split("training"), material.of_split("testing")
    return gate_planted_copies(targets.gate, *training, *unseen, seed=material.seed)


def _gate_false_rejections(material: AuditMaterial, targets: AuditTargets) -> Found:
    if targets.gate is None:
        return "there is no gate"
    # the validation images have set its threshold
    return gate_false_rejections(targets.gate, *material.of_split("testing"))


def _gate_released(material: AuditMaterial, targets: AuditTargets) -> Found:
    if targets.gate is None:
        return "there is no gate"
    parts = material.synthetic_images.split(JUDGED_AT_ONCE)
    rejected = torch.cat([(targets.gate.distances(part) < targets.gate.threshold).cpu() for part in parts])
    share = float(rejected.double().mean())
    return AttackResult(
        name="gate_released",
        measure="rate",
        value=share,
        interval=(share, share),  # all released images that are audited, not a sample of patients
        baseline=0.0,
        control=None,
        control_interval=None,
        n=material.real.members,
        n_control=material.real.held_out,
        resolvable=1 / len(rejected),
        seed=None,
        details={"images": len(rejected), "rejected": int(rejected.sum())},
    )


def _k_same(material: AuditMaterial, targets: AuditTargets) -> Found:
    groups = targets.groups
    if groups is None:
        return "no ledger knows groups of patients behind these walks, or they start from random latents"
    risk = 1 / groups["smallest_group"]
    return AttackResult(
        name="k_same",
        measure="nominal risk 1/k",
        value=risk,
        interval=(risk, risk),
        baseline=0.0,
        control=None,
        control_interval=None,
        n=groups["patients"],
        n_control=0,
        resolvable=0.0,
        seed=None,
        details=dict(groups),
    )


def _with_each_distance(
    attack: Callable[[AuditMaterial, str], Found],
) -> Callable[[AuditMaterial, AuditTargets], dict[str, Found]]:
    return lambda material, targets: {f"/{name}": attack(material, name) for name in material.names}


def _once(
    attack: Callable[[AuditMaterial, AuditTargets], Found],
) -> Callable[[AuditMaterial, AuditTargets], dict[str, Found]]:
    return lambda material, targets: {"": attack(material, targets)}


TESTS: dict[str, Callable[[AuditMaterial, AuditTargets], dict[str, Found]]] = {
    "screening": _with_each_distance(_screening),
    "near_copies": _with_each_distance(_near_copies),
    "membership_distance": _with_each_distance(_membership_distance),
    "membership_density": _with_each_distance(_membership_density),
    "membership_network": _once(_membership_network),
    "membership_discriminator": _once(_membership_discriminator),
    "membership_reconstruction": _once(_membership_reconstruction),
    "membership_shadow": _once(_membership_shadow),
    "reidentification": _once(_reidentification),
    "singling_out": _once(_singling_out),
    "linkability": _once(_linkability),
    "inference": _once(_inference),
    "canaries": _once(_canaries),
    "gate_planted_copies": _once(_gate_planted_copies),
    "gate_false_rejections": _once(_gate_false_rejections),
    "gate_released": _once(_gate_released),
    "k_same": _once(_k_same),
}
"""Test's id to what carries it out: the endings of its id, with a distance or "", to what was found."""
