"""What each test asks and how to read it, for people who know no machine learning; one place for page and cards."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AttackStory", "story_of"]


@dataclass(frozen=True, kw_only=True)
class AttackStory:
    """The words that belong to a test.

    Attributes:
        title: a short name.
        question: what the test asks, in plain words.
        kind: "attack", "screening" or "safeguard" (a protection of the release that is itself put to the test).
        holds: what the attacker holds; of a safeguard, what is given to it.
        wants: what the attacker wants to know; of a safeguard, what it must do.
        does: what is done in the test.
        read: how to read the figure.
        remedy: what to do if it fails.
        source: where the test comes from.
        needs: what must leave the hospital for the attack: "images", "generator" or "more".
        cases: the two kinds of cases that an AUROC tells apart.
        control: where nothing can be found and the same is done.
        baseline_name: what the result's baseline is; "" if it has no meaning.
    """

    title: str
    question: str
    kind: str = "attack"
    holds: str
    wants: str
    does: str
    read: str
    remedy: str
    source: str
    needs: str = "images"
    cases: str = "one case of each kind"
    control: str = ""
    baseline_name: str = "Guessing gives"


MEMBER = "a patient whose images trained the generator and one whose images did not"
_HOLDS_IMAGES = (
    "All synthetic images, and real images of a few hundred people of whom some may have been patients here."
)
_WANTS_MEMBER = "To learn whether a certain person's images were used, and so that the person was a patient here."
_READ_MEMBER = (
    "A figure near that of guessing means that the attacker learns nothing by this way. A figure above it means that "
    "having been a patient here can be guessed better than by chance."
)
_LESS_MEMORY = (
    "Stop the generator's training earlier, use fewer steps or more augmentation, or train it on more patients; then "
    "make the synthetic images anew and repeat the audit with the same limits."
)
_HALVES = "one random half of the training patients against the other half"
_WP29 = (
    "Article 29 Working Party, Opinion 05/2014 on anonymisation techniques (WP216); Giomi et al., A unified framework "
    "for quantifying privacy risk in synthetic data, PoPETs 2023"
)

STORIES: dict[str, AttackStory] = {
    "screening": AttackStory(
        title="Nearness of synthetic to real images",
        question="Do the synthetic images lie nearer to the patients used for training than to other patients?",
        kind="screening",
        holds="Nobody attacks here: distances between images are compared.",
        wants="To see whether synthetic images crowd around the images that they were learned from.",
        does="The distance of each synthetic image to its nearest training image is compared with its distance to the "
        "nearest image of patients that were never used, with equally many patients on both sides.",
        read="If both distances are alike, no copying is seen by this measure. That is a first look and no proof: "
        "images may lie far apart and still tell who was a patient. Only the attacks below can show that.",
        remedy=_LESS_MEMORY,
        source="Pennisi et al., A privacy-preserving walk in the latent space of generative models, MICCAI 2023; its "
        "limits: Yao et al., The DCR Delusion, 2025, arXiv 2505.01524",
        cases="a distance to a training patient and one to another patient",
        control=_HALVES,
    ),
    "near_copies": AttackStory(
        title="Near-copies of patients",
        question="Are there released images that lie closer to a training patient than other people do?",
        kind="screening",
        holds="Nobody attacks here: distances between images are compared.",
        wants="To count released images that copy somebody, even if there are few of them.",
        does="For each released image the nearest training patient is looked up. The image counts if it lies nearer "
        "than the nearest 1 in 100 of the patients who were never used. The same is done with held-out patients in "
        "the training patients' place, and the one share is subtracted from the other.",
        read="Zero means that released images come no closer to training patients than to anybody else. Every "
        "hundredth above zero is one near-copy more in 100 released images.",
        remedy="Make the gate stricter and the images anew. If they still come so near: " + _LESS_MEMORY,
        source="Own test of monai_plan",
        baseline_name="Without copies",
    ),
    "membership_distance": AttackStory(
        title="Guessing who was a patient, by distance",
        question="Can somebody tell who was used for training by how near the synthetic images come to a person's "
        "image?",
        holds=_HOLDS_IMAGES,
        wants=_WANTS_MEMBER,
        does="For each real image the nearest synthetic image is looked up. The nearer it is, the more the attacker "
        "believes that the person was a patient.",
        read=_READ_MEMBER,
        remedy=_LESS_MEMORY,
        source="Chen et al., GAN-Leaks, ACM CCS 2020",
        cases=MEMBER,
        control=_HALVES,
    ),
    "membership_density": AttackStory(
        title="Guessing who was a patient, by crowding",
        question="Can somebody tell who was used for training by how many synthetic images crowd around a person's "
        "image?",
        holds=_HOLDS_IMAGES + " Also other real images of the same kind, to know where images are common anyhow.",
        wants=_WANTS_MEMBER,
        does="The attacker compares how dense the synthetic images lie around a real image with how dense real images "
        "lie there in general.",
        read=_READ_MEMBER,
        remedy=_LESS_MEMORY,
        source="Hilprecht et al., Monte Carlo and reconstruction membership inference attacks, PoPETs 2019; van "
        "Breugel et al., Membership inference attacks against synthetic data through overfitting detection, AISTATS "
        "2023",
        cases=MEMBER,
        control=_HALVES,
    ),
    "membership_network": AttackStory(
        title="Guessing who was a patient, by a trained network",
        question="Does a classifier that was trained on the synthetic images give away who was a patient?",
        holds="A classifier trained on the synthetic images, and real images of people of whom the attacker knows "
        "already whether they were patients here.",
        wants=_WANTS_MEMBER + " This attacker learns from known cases and then judges unknown ones.",
        does="The classifier is asked about every image. A second network learns from its answers to tell known "
        "patients from known others, and then judges people whom it has not seen. The others are test patients only: "
        "the validation patients chose when the classifier's training ended, and would look known to it.",
        read=_READ_MEMBER,
        remedy=_LESS_MEMORY,
        source="Shokri et al., Membership inference attacks against machine learning models, IEEE S&P 2017; protocol "
        "of Pennisi et al., MICCAI 2023",
        control=_HALVES,
    ),
    "membership_discriminator": AttackStory(
        title="Guessing who was a patient, with the discriminator (worst case)",
        question="Could an insider with the training software's second network tell who was used for training?",
        holds="The discriminator: the network that judged real against synthetic images during training. It is never "
        "released; this is the worst case, a theft from inside.",
        wants=_WANTS_MEMBER,
        does="Each real image is shown to the discriminator. The more real it is judged, the more the attacker "
        "believes that the person was a patient.",
        read=_READ_MEMBER + " This attacker holds more than any recipient of the release.",
        remedy="Keep the discriminator inside, or delete it. " + _LESS_MEMORY,
        source="Hayes et al., LOGAN: Membership inference attacks against generative models, PoPETs 2019",
        needs="more",
        cases=MEMBER,
        control=_HALVES,
    ),
    "membership_reconstruction": AttackStory(
        title="Guessing who was a patient, by redrawing their image",
        question="Can the generator redraw the images of its own training patients better than those of others?",
        holds="The generator itself, and real images of people of whom some may have been patients here.",
        wants=_WANTS_MEMBER,
        does="For each real image the attacker searches for the generator's setting that comes nearest to it. The "
        "better the generator can redraw the image, the more the attacker believes that the person was a patient.",
        read=_READ_MEMBER,
        remedy="Release finished images only (mode 'images') and keep the generator inside. " + _LESS_MEMORY,
        source="Chen et al., GAN-Leaks, ACM CCS 2020",
        needs="generator",
        cases=MEMBER,
        control=_HALVES,
    ),
    "membership_shadow": AttackStory(
        title="Guessing who was a patient, with rehearsal generators",
        question="Can somebody who trains many generators of the same kind learn to recognise the traces of one "
        "patient?",
        holds="The same software, the computing power to train many generators, and real images of the same kind.",
        wants=_WANTS_MEMBER,
        does="Many generators are trained with and without each person. The attacker learns what difference one person "
        "makes, and looks for it in the generator under test.",
        read=_READ_MEMBER + " It is the strongest known attack of its kind, and costs the attacker most.",
        remedy=_LESS_MEMORY,
        source="Carlini et al., Membership inference attacks from first principles (LiRA), IEEE S&P 2022; Zarifzadeh "
        "et al., Low-cost high-power membership inference attacks (RMIA), ICML 2024",
        cases=MEMBER,
        control="the same attack, with the patients exchanged at random",
    ),
    "reidentification": AttackStory(
        title="Recognising a patient in a synthetic image",
        question="Does a program that recognises patients again find a training patient in a synthetic image?",
        holds="The synthetic images, an archive of real images with names, and a network trained to tell whether two "
        "images show the same patient.",
        wants="To link a synthetic image to a person in the archive.",
        does="The network looks for the patient in the archive who is most like each synthetic image, and says whether "
        "it takes both for the same person. The same is done with patients who cannot be in the images.",
        read="If training patients are linked no more often than patients who cannot be in the images, the links are "
        "chance likeness. More links than that are traces of real patients.",
        remedy="Raise k (more patients behind each starting point), make the gate stricter, and make the images anew.",
        source="Packhäuser et al., Deep learning-based patient re-identification is able to exploit the biometric "
        "nature of medical chest X-ray data, Scientific Reports 2022",
        cases="a link to a training patient and a link to somebody who cannot be in the images",
    ),
    "singling_out": AttackStory(
        title="Singling out one person",
        question="Do the synthetic images let somebody describe exactly one real patient?",
        holds="All synthetic images.",
        wants="A description, made from a synthetic image, that fits one real patient and nobody else.",
        does="Each description is a synthetic image and a distance: 'as near to this picture as that'. The distance "
        "is half of that to the nearest synthetic image of another path. It is counted how often exactly one training "
        "patient is so near, and how often exactly one patient who was not used.",
        read="What counts is how much more often it succeeds with training patients than with others. Zero means no "
        "gain.",
        remedy="Raise k, make the gate stricter, or release fewer images; then repeat the audit with the same limits.",
        source=_WP29,
    ),
    "linkability": AttackStory(
        title="Linking two records of one person",
        question="Do the synthetic images help to put together two parts of one person's record?",
        holds="All synthetic images, and two collections without names: the left halves of real images, and the right "
        "halves.",
        wants="To find the two halves that belong to the same person.",
        does="Two halves are taken for the same person's if the same synthetic images lie nearest to both. The same is "
        "tried with patients who were not used.",
        read="What counts is how much more often it succeeds with training patients than with others. Zero means no "
        "gain.",
        remedy="Raise k, make the gate stricter, or release fewer images; then repeat the audit with the same limits.",
        source=_WP29,
    ),
    "inference": AttackStory(
        title="Learning a person's diagnosis",
        question="Do the synthetic images reveal the diagnosis of a training patient better than that of anybody else?",
        holds="All synthetic images with their classes, and the image of a person whose diagnosis is unknown.",
        wants="That person's diagnosis.",
        does="The attacker takes the class of the nearest synthetic images for the person's diagnosis. The same is "
        "done for patients who were not used.",
        read="Some success is wanted: the images are made to teach what a disease looks like. A breach is only what "
        "succeeds more often for training patients than for others.",
        remedy="Raise k, make the gate stricter, or release fewer images; then repeat the audit with the same limits.",
        source=_WP29,
    ),
    "canaries": AttackStory(
        title="Test cases in or out by lot (canaries)",
        question="Can it be detected afterwards which test cases took part in the training?",
        holds="The images of all test cases ('canaries'). For each a coin was thrown before the training: its images "
        "were used, or left out.",
        wants="To say of each of them whether it was used.",
        does="The attacker guesses for those where the guess is surest. From the number of right guesses a lower bound "
        "of the privacy loss epsilon is computed: a training that is private in the mathematical sense could not give "
        "away more.",
        read="Epsilon 0 means that nothing was detected. It is a lower bound: the true privacy loss may be larger, and "
        "this figure proves no upper one.",
        remedy=_LESS_MEMORY,
        source="Steinke, Nasr, Jagielski, Privacy auditing with one (1) training run, NeurIPS 2023",
        control="the same guesses, with the coins exchanged at random",
    ),
    "gate_planted_copies": AttackStory(
        title="Does the gate stop copies?",
        question="Does the gate, the last check before an image is emitted, stop copies of real images?",
        kind="safeguard",
        holds="Copies of training images: exact ones, and ones that were cropped, turned, brightened, blurred and so "
        "on.",
        wants="To reject them.",
        does="The copies are shown to the gate, and the rejected ones are counted.",
        read="The nearer to 1, the better. Which alterations slip through stands among the figures below.",
        remedy="Train the gate's network anew with these alterations, or make its threshold stricter.",
        source="Own test of monai_plan",
        baseline_name="A gate that guesses",
        control="copies of images of patients who were never used, altered alike: a gate that rejects them as well "
        "rejects everything",
    ),
    "gate_false_rejections": AttackStory(
        title="Does the gate reject without need?",
        question="How often does the gate take images of patients who were never used for copies?",
        kind="safeguard",
        holds="Real images of patients who were not used for training.",
        wants="To let them pass: they cannot be copies.",
        does="The images are shown to the gate, and the rejected ones are counted.",
        read="The smaller, the better. This is about quality more than privacy: a gate that rejects everything is safe "
        "and useless.",
        remedy="Train the gate's network longer or on more patients, or loosen its threshold.",
        source="Own test of monai_plan",
        baseline_name="Rate asked for",
    ),
    "gate_released": AttackStory(
        title="Do the released images pass the gate?",
        question="Does the gate reject a released image when the image is shown to it again?",
        kind="safeguard",
        holds="The released images, as they would leave.",
        wants="To let all of them pass: nothing may leave that the gate rejects.",
        does="The images are shown to the gate, and the rejected ones are counted.",
        read="It must be 0. Anything else means that these images did not come through this gate, or were changed "
        "after it.",
        remedy="Make the walks anew with the gate that is in use, and release nothing else.",
        source="Own test of monai_plan",
        baseline_name="Must be",
    ),
    "k_same": AttackStory(
        title="Patients behind each starting point",
        question="Does each starting point of the synthetic images stand for a group of enough patients?",
        kind="safeguard",
        holds="The ledger, in which the hospital keeps the group of patients behind each starting point.",
        wants="At least k patients in each group.",
        does="The smallest group is read from the ledger; one divided by its size is the nominal risk of being picked "
        "out.",
        read="The European Medicines Agency and Health Canada accept 0.09 for public release of clinical data: with "
        "twelve patients it is 0.083. The figure is about starting points only: the generator was trained on "
        "everybody.",
        remedy="Raise k to 12 or more and make the walks anew.",
        source="Newton, Sweeney, Malin, Preserving privacy by de-identifying face images, IEEE TKDE 2005; threshold: "
        "EMA Policy 0070; Health Canada, Public Release of Clinical Information",
        baseline_name="",
    ),
}

_DISTANCES = {
    "embedding": "audit's own network",
    "lpips_squeeze": "LPIPS, SqueezeNet",
    "lpips_alex": "LPIPS, AlexNet",
    "lpips_vgg": "LPIPS, VGG",
}


def story_of(name: str) -> AttackStory:
    """The words for a test's id, e.g. ``"screening/embedding"``: what stands after the slash names the distance.

    An id that is not known gets neutral words, so that no test is left out of a certificate.
    """
    test, _, distance = name.partition("/")
    story = STORIES.get(test) or _unknown(test)
    if not distance:
        return story
    return AttackStory(**{**vars(story), "title": f"{story.title} ({_DISTANCES.get(distance, distance)})"})


def _unknown(test: str) -> AttackStory:
    words = test.replace("_", " ").strip() or "unnamed test"
    return AttackStory(
        title=words[0].upper() + words[1:],
        question=f"What does the test '{test}' find?",
        holds="Not described in this version of monai_plan.",
        wants="Not described in this version of monai_plan.",
        does="Not described in this version of monai_plan.",
        read="Compare the figure with what guessing gives and with the control.",
        remedy="Ask whoever added the test.",
        source="Not stated",
        needs="more",
    )
