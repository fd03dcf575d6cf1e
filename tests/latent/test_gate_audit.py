"""Planted copies and false rejections, with answers by hand: an embedder that sees only the mean of an image."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monai_plan.latent import PrivacyGate, gate_false_rejections, gate_planted_copies, planted_sensitivity
from monai_plan.metrics.intervals import clopper_pearson
from monai_plan.transforms import COPY_ALTERATIONS, alterations_of


class Mean(nn.Module):
    """An image's mean is an angle: blind to mirrors, sees brightness."""

    def forward(self, images):
        angle = images.mean(dim=(1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def flat(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()


def gate_of(images, threshold=0.1, false_rejection=0.05):
    return PrivacyGate(Mean(), Mean()(images), threshold, {"false_rejection": false_rejection})


TRAINING = flat(-0.6, -0.6, 0.6)
HELD_OUT = flat(0.0, 0.0)


def test_planted_copies_by_hand():
    """Only brightness (0.2 on a scale of 2) and a part in a host far away move a flat image's mean by 0.1."""
    result = gate_planted_copies(gate_of(TRAINING), TRAINING, ["a", "a", "b"], HELD_OUT, ["c", "d"], seed=3)
    table = result.details["planted"]
    assert set(table) == set(alterations_of(1)) and result.name == "gate_planted_copies" and result.measure == "rate"
    light = {name: levels["light"]["rate"] for name, levels in table.items()}
    # gamma 10 %: 0.2^1.1 and 0.2^(1/1.1) are 0.170 and 0.232 for 0.2, 0.8 changes less: below 0.1 on the scale of 2
    assert {name for name, rate in light.items() if rate < 1} == {"brightness", "paste"}
    assert light["brightness"] == light["paste"] == 0  # a quarter of the host moves the mean by 0.15
    assert result.value == pytest.approx(11 / 13)
    assert result.interval == pytest.approx(clopper_pearson(2 * 11 / 13, 2))  # two patients, not three images
    assert (result.n, result.n_control, result.seed, result.baseline) == (2, 2, 3, 0.05)
    assert result.control == 0 and result.control_interval == pytest.approx(clopper_pearson(0, 2))
    assert result.details["worst"] in ("brightness", "paste") and result.details["worst_rate"] == 0
    assert result.details["worst_interval_95"] == pytest.approx([0, 1 - 0.025**0.5])
    said = result.details["breaks_down"]
    assert "brightness of 0.1 (share of the range, lighter or darker): 0.0 % found" in said
    assert not any(line.startswith(("exact", "flip", "shift", "rotate", "contrast")) for line in said)
    low, high = clopper_pearson(0.1, 2)
    assert result.resolvable == pytest.approx((high - low) / 2)


def test_control_is_the_share_of_light_copies_of_held_out_images():
    """c's images, 0.02, lie within 0.1 of the gallery's 0: their copies are rejected but for brightness (0.2 off) and
    the first's part in d's image (3/4 of 0.02 and 1/4 of 0.5). No copy of d's image is, also not the part in c's."""
    training, held_out = flat(0.0, 0.0), flat(0.02, 0.02, 0.5)
    result = gate_planted_copies(gate_of(training), training, ["a", "b"], held_out, ["c", "c", "d"])
    assert result.control == pytest.approx(((11 / 13 + 12 / 13) / 2 + 0) / 2)
    assert result.control_interval == pytest.approx(clopper_pearson(11.5 / 13, 2))
    assert result.value == pytest.approx(12 / 13)  # parts of 0 in 0.02 are found, too
    assert (result.details["worst"], result.details["worst_rate"]) == ("brightness", 0)


def test_a_gate_that_rejects_everything_is_seen_by_its_control():
    result = gate_planted_copies(gate_of(TRAINING, 2.0), TRAINING, ["a", "a", "b"], HELD_OUT[:1], ["c"])
    assert result.value == result.control == result.details["worst_rate"] == 1
    assert result.control_interval == pytest.approx((0.025, 1)) and result.details["breaks_down"] == []
    false = gate_false_rejections(gate_of(TRAINING, 2.0), HELD_OUT, ["c", "d"])
    assert false.value == 1


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


def test_memory_grows_with_the_batch_not_with_the_images():
    """Nine images of 256 px in colour (one in memory, nine times), two at a time: no tensor is larger than two."""
    images = (torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) - 0.5).expand(9, -1, -1, -1)
    judged = []

    def distances(batch):
        judged.append(len(batch))
        return torch.zeros(len(batch))

    with Largest() as largest:
        planted_sensitivity(distances, 0.1, images, -images[:1], 0, batch_size=2)
    assert set(judged) == {1, 2} and sum(judged) == 9 * sum(len(of.strengths) for of in COPY_ALTERATIONS.values())
    assert largest.bytes == 2 * 3 * 256 * 256 * 4


def test_every_patient_weighs_alike():
    """Of patient a, two of three images are found; of b the only one: (2/3 + 1) / 2."""
    gate = gate_of(flat(0.0))
    images = flat(0.0, 0.0, 0.5, 0.0)
    result = gate_planted_copies(gate, images, ["a", "a", "a", "b"], flat(1.0), ["c"])
    row = result.details["planted"]["flip"]["light"]
    assert row["rate"] == pytest.approx(5 / 6) and row["n"] == 2
    assert row["interval_95"] == pytest.approx(clopper_pearson(5 / 3, 2))


def test_false_rejections_by_hand():
    """One of a's two images is rejected, b's, and none of c's: (1/2 + 1 + 0) / 3."""
    gate = gate_of(flat(0.0), false_rejection=0.2)
    result = gate_false_rejections(gate, flat(0.0, 0.5, 0.05, -0.5), ["a", "a", "b", "c"])
    assert result.value == pytest.approx(0.5) and result.interval == pytest.approx(clopper_pearson(1.5, 3))
    assert (result.n, result.baseline, result.control, result.seed) == (3, 0.2, None, None)
    assert result.details == {"threshold": 0.1, "images": 4}


def test_copies_do_not_depend_on_the_batch_size():
    images = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = []
    for size in (1, 2, 5, 64):
        shown = []
        planted_sensitivity(lambda batch: shown.extend(batch) or torch.zeros(len(batch)), 0.1, images, -images, 3, size)  # noqa: B023
        seen.append(torch.stack(shown))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_sensitivity_counts_images_and_replays():
    gate = gate_of(flat(0.0))
    tables = [planted_sensitivity(gate.distances, 0.1, flat(0.0, 0.0, 0.5), HELD_OUT, 7, size) for size in (1, 64)]
    assert tables[0] == tables[1]
    assert tables[0]["exact"]["light"] == {
        "amount": 0.0,
        "rate": pytest.approx(2 / 3),
        "interval_95": pytest.approx(list(clopper_pearson(2, 3))),
        "n": 3,
    }
    assert list(tables[0]["shift"]) == ["light", "medium", "strong"] and list(tables[0]["flip"]) == ["light"]


def test_counters_are_not_touched():
    gate = gate_of(TRAINING)
    gate_false_rejections(gate, HELD_OUT, ["c", "d"])
    gate_planted_copies(gate, TRAINING, ["a", "a", "b"], HELD_OUT, ["c", "d"])
    assert gate.accepted == gate.rejected == 0


@pytest.mark.parametrize("images, patients", [(flat(0.0, 0.0), ["a"]), (flat(0.0)[:0], [])])
def test_a_name_for_each_image(images, patients):
    with pytest.raises(ValueError, match=f"{len(images)} images and {len(patients)} patients' names"):
        gate_false_rejections(gate_of(TRAINING), images, patients)
