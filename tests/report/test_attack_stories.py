"""Every test of an audit has its words; any other gets neutral ones."""

import dataclasses

import pytest

from monai_plan.report import story_of

IDS = [
    "screening",
    "near_copies",
    "membership_distance",
    "membership_density",
    "membership_network",
    "membership_discriminator",
    "membership_reconstruction",
    "membership_shadow",
    "reidentification",
    "singling_out",
    "linkability",
    "inference",
    "canaries",
    "gate_planted_copies",
    "gate_false_rejections",
    "gate_released",
    "k_same",
]


def test_every_test_is_told_in_its_own_words():
    stories = [story_of(name) for name in IDS]
    assert len({story.title for story in stories}) == len({story.question for story in stories}) == len(IDS)
    for story in stories:
        words = dataclasses.asdict(story)
        assert all(
            words[name].endswith((".", "?")) for name in ("question", "holds", "wants", "does", "read", "remedy")
        )
        assert story.kind in ("attack", "screening", "safeguard") and story.needs in ("images", "generator", "more")
        assert "Not described" not in story.does


@pytest.mark.parametrize(
    "name, title",
    [
        ("screening", "Nearness of synthetic to real images"),
        ("screening/embedding", "Nearness of synthetic to real images (audit's own network)"),
        ("screening/of_mine", "Nearness of synthetic to real images (of_mine)"),
        ("next_year/pixels", "Next year (pixels)"),
        ("", "Unnamed test"),
    ],
)
def test_titles(name, title):
    assert story_of(name).title == title
