"""Data-parallel training: two processes on gloo, beside one process on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys
import ignite.distributed as idist
import torch
from monai.data import DataLoader
import monai_plan
from monai_plan.data import ImageStream
from monai_plan.engines import StyleGanTrainer
from monai_plan.engines.parallel import mean_over_ranks
from monai_plan.losses import StyleGanObjective

class Plain(torch.nn.Module):
    z_dim, num_ws = 4, 3

    def __init__(self, start):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([start, -0.2]))
        self.register_buffer("w_avg", torch.zeros(4))

    def map_latents(self, z, labels):
        return torch.ones_like(z) * self.weight[labels][:, None]

    def synthesize(self, w, noise, rng):
        return w[:, :1, None, None].expand(-1, 1, 8, 8)

    def forward(self, images, labels):
        return images.mean(dim=(1, 2, 3)) * self.weight[labels]

def main(folder):
    torch.manual_seed(0)
    data = [{"image": torch.randn(1, 8, 8), "label": torch.tensor(i % 2)} for i in range(12)]
    rank, processes = idist.get_rank(), idist.get_world_size()
    # process 1 starts from other weights, which must not matter
    generator, discriminator = Plain(0.5 + rank), Plain(0.3 + rank)
    trainer = StyleGanTrainer(
        device="cpu", max_epochs=3, epoch_length=2, generator=generator, discriminator=discriminator,
        train_data_loader=DataLoader(data, batch_size=8 // processes, sampler=ImageStream([0, 1] * 6)),
        accumulate=int(sys.argv[2]),
        g_optimizer=torch.optim.SGD(generator.parameters(), 0.1),
        d_optimizer=torch.optim.SGD(discriminator.parameters(), 0.1),
        augment=monai_plan.networks.layers.AugmentPipe(0.0),
        objective=StyleGanObjective(loss=sys.argv[3], r1_gamma=1.0, r2_gamma=0.5, penalty_interval=2),
    )
    trainer.run()
    assert trainer.state.output["images"] == 8
    found = {"generator": generator.weight.detach(), "discriminator": discriminator.weight.detach(),
             "w_avg": generator.w_avg, "d_loss": torch.tensor(trainer.state.output["d_loss"])}
    torch.save(found, f"{folder}/{processes}_{rank}.pt")

idist.initialize("gloo")
main(sys.argv[1])
idist.finalize()
"""


@pytest.mark.parametrize("loss", ["logistic", "relativistic"])
def test_two_processes_train_as_one_on_the_whole_batch(tmp_path, loss):
    """The single process cuts its batch into two parts, as the two processes do."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*words, str(script), str(tmp_path), str(3 - processes), loss],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1_0.pt", "2_0.pt", "2_1.pt"))
    torch.testing.assert_close(first["w_avg"], second["w_avg"])
    del one["w_avg"]  # follows every part of a batch: twice as often in the single process
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, msg=name)
        torch.testing.assert_close(second[name], value, msg=name)
    assert (one["generator"] - torch.tensor([0.5, -0.2])).abs().min() > 1e-4
