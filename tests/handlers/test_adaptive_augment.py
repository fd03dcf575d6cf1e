"""The augmentation's strength by hand."""

from __future__ import annotations

import pytest
from ignite.engine import Engine

from monai_plan.handlers import AdaptiveAugment
from monai_plan.networks.layers import AugmentPipe


@pytest.mark.parametrize(
    ("start", "signs", "limit", "expected"),
    [
        (0.2, [1.0] * 4, 0.8, 0.3),  # 4 iterations x 25 images / 1000
        (0.2, [1.0] * 8, 0.8, 0.4),
        (0.2, [1.0] * 7, 0.8, 0.3),  # not yet a second interval
        (0.2, [1.0] * 3, 0.8, 0.2),
        (0.2, [-1.0] * 4, 0.8, 0.1),
        (0.2, [1.0, 1.0, 0.2, 0.0], 0.8, 0.1),  # mean 0.55 is below the target
        (0.2, [1.0, 1.0, 0.6, 0.0], 0.8, 0.3),  # mean 0.65 is above it
        (0.05, [-1.0] * 8, 0.8, 0.0),  # never below nothing
        (0.75, [1.0] * 8, 0.8, 0.8),  # never above the limit
    ],
)
def test_p_follows_the_sign(start, signs, limit, expected):
    augment = AugmentPipe(start)
    engine = Engine(lambda engine, sign: {"real_sign": sign, "images": 25})
    AdaptiveAugment(augment, target=0.6, images_to_full=1000, interval=4, limit=limit).attach(engine)
    engine.run(signs, max_epochs=1)
    assert augment.p.item() == pytest.approx(expected, abs=1e-6)
