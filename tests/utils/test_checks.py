"""Settings are refused before work starts."""

from __future__ import annotations

import pytest

from monai_plan.utils import fingerprint, require_counts, require_own_folder, require_seeds


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", None, True, [1]])
def test_counts_are_whole_numbers(value):
    with pytest.raises(ValueError, match="'epochs' is .* from 1 on.*--set epochs=NUMBER.*--epochs NUMBER"):
        require_counts(batch=2, epochs=value)


def test_good_counts_pass_and_the_least_is_counted():
    assert require_counts(a=1, b=100) is None
    with pytest.raises(ValueError, match="'walk#steps' is 2, and must be a whole number from 3 on"):
        require_counts(3, **{"walk#steps": 2})


@pytest.mark.parametrize("seeds", [0, "012", [], [0, 0], [1.5], [True], [-1], None, {"a": 1}])
def test_seeds_are_a_list_of_different_numbers(seeds):
    with pytest.raises(ValueError, match="'seeds' is .*must be a list.*--seeds"):
        require_seeds(seeds)


@pytest.mark.parametrize("seeds", [[0], (3, 1), [0, 1, 2]])
def test_good_seeds_pass(seeds):
    assert require_seeds(seeds) is None


def test_real_images_keep_out_of_the_shipped_weights(tmp_path):
    shipped = tmp_path / "bundle" / "models"
    require_own_folder(False, tmp_path / "bundle", models_dir=shipped)
    require_own_folder(True, tmp_path / "bundle", models_dir=tmp_path / "mine")
    with pytest.raises(ValueError, match="'ckpt_dir' is .*phantoms ship.*--ckpt_dir DIR"):
        require_own_folder(True, tmp_path / "bundle", models_dir=tmp_path, ckpt_dir=shipped)
    with pytest.raises(
        ValueError, match="'private_dir' is .*phantoms ship"
    ):  # the gate of phantoms would judge patients
        require_own_folder(True, tmp_path / "bundle", private_dir=tmp_path / "bundle" / "private")


def test_fingerprint_tells_values_apart():
    assert fingerprint([{"image": "a"}], 64) == fingerprint([{"image": "a"}], 64)
    assert len({fingerprint(["a"], 64), fingerprint(["b"], 64), fingerprint(["a"], 32)}) == 3
