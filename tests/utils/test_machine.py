"""What a report says about where it was made."""

import torch

from monai_plan.utils import machine_name


def test_a_cpu_with_its_threads():
    name = machine_name("cpu")
    assert name.endswith(f", {torch.get_num_threads()} thread(s)") and not name.startswith(" ")
    assert torch.backends.cpu.get_cpu_capability() in name
