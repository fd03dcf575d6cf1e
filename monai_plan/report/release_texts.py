"""What the verdicts mean, and what the receiver of a release can do with it, in plain words."""

from __future__ import annotations

from typing import Any

__all__ = ["DETAIL_NAMES", "EPSILON_NOTE", "OVERALL", "THREAT"]

EPSILON_NOTE = (
    "This epsilon is what an attack could show, a lower bound. Even a generator trained with differential privacy "
    "would not make this release differentially private: the walks read private data again (the network that "
    "recognises patients, the gallery and the gate)."
)
THREAT: dict[str, dict[str, Any]] = {
    "walks": {
        "title": "The generator and its verified points are released (mode 'walks')",
        "holds": "The receiver holds the generator, a program that draws images from lists of numbers (latent points), "
        "and those points whose images were checked beforehand.",
        "can": [
            "render more images than the checked points, and no gate judges those",
            "search for the point that redraws a given real image (invert it), and compare how well that works",
            "estimate from the points of a path where it began and ended: those ends are made from groups of patients "
            "and are not released themselves",
            "do all that the receiver of images can do",
        ],
        "cannot": "The receiver does not hold real images, the discriminator, the gate, or the list of patients behind "
        "the starting points.",
    },
    "images": {
        "title": "Finished images only are released (mode 'images')",
        "holds": "The receiver holds finished synthetic images and their classes, and nothing that makes more of them.",
        "can": [
            "compare the images with real images from elsewhere",
            "train programs on the images",
            "combine all images of one path, which are alike",
        ],
        "cannot": "The receiver does not hold the generator, latent points, real images, the discriminator, the gate, "
        "or the list of patients behind the starting points.",
    },
}
"""By the mode of release."""
OVERALL = {
    "passed": {
        "sentence": "Every test that had a limit was run and kept it, and every required test was run.",
        "means": "The attacks of this document, carried out on these data, found no more than the limits allow. The "
        "limits were set before the audit began.",
        "means_not": "It does not mean that the images are anonymous in the sense of the law, that no other attack can "
        "succeed, or that the release is private in the mathematical sense (differential privacy).",
    },
    "failed": {
        "sentence": "At least one test shows more than the limit that was set beforehand.",
        "means": "An attack learns more about the patients, or a safeguard works less well, than was held acceptable.",
        "means_not": "It does not mean that a certain patient has been identified. It does mean that this release "
        "should not leave as it is.",
    },
    "unclear": {
        "sentence": "The audit can neither clear this release nor refuse it.",
        "means": "Nothing is shown to exceed its limit, but something that had to be shown was not: see the reasons "
        "below.",
        "means_not": "It is not a pass. An attack that finds nothing among few patients may find something among many.",
    },
}
"""By verdict."""
DETAIL_NAMES = {
    "amount": "strength",
    "breaks_down": "breaks down at",
    "curve": "ROC curve",
    "dcr": "distance to the nearest patient, quantiles",
    "fid": "FID",
    "fpr": "false alarms",
    "gallery_patients": "patients on each side",
    "held_out": "held out",
    "interval_95": "95 % interval",
    "kid": "KID",
    "mml_held_out": "mean distance to the nearest held-out patient",
    "mml_reference": "the same of held-out patients' images to training patients",
    "mml_training": "mean distance to the nearest training patient",
    "n": "patients",
    "near": "near-copies",
    "nndr": "nearest over second nearest patient, median",
    "planted": "Copies found, by alteration and strength",
    "quantile": "unseen patients this near to a training patient",
    "rate_interval_95": "95 % interval of the rate",
    "share_interval_95": "95 % interval of the share",
    "smallest_group": "patients in the smallest group",
    "spread": "starting points drawn apart",
    "top_1": "own patient is the nearest (real images)",
    "tpr": "patients found",
    "tpr_at_fpr": "Patients found, at a rate of false alarms of",
    "trained_on_real_images": "the same attack on a classifier trained on real images",
    "verification_auroc": "AUROC of recognising patients (real images)",
    "worst": "least found alteration",
    "worst_interval_95": "95 % interval of its rate",
    "worst_rate": "its rate",
}
"""Sub-figures of tests, where their keys are not words already."""
