"""Tiny networks for the latent tests: smooth, seeded, without any training."""

import torch
from torch import nn


class FakeGenerator(nn.Module):
    """w -> tanh of a linear map, as a [1, 4, 4] image; two classes."""

    z_dim, w_dim, num_classes, image_size, channels = 6, 6, 2, 4, 1

    def __init__(self, seed=0, gain=0.6):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(gain * torch.randn(16, self.w_dim, generator=rng))
        self.dropout = nn.Dropout(0.5)  # makes results random unless in evaluation mode
        self.largest_batch = 0

    def map_latents(self, z, labels, truncation=1.0):
        return self.dropout(z * truncation + labels.unsqueeze(1))

    def synthesize(self, w, noise="const", rng=None):
        assert noise == "const"
        self.largest_batch = max(self.largest_batch, len(w))
        return self.dropout(1.5 * torch.tanh(w @ self.weight.T)).view(-1, 1, 4, 4)


def classifier(classes, seed):
    """A linear classifier of images, with batch norm that would mix a batch unless in evaluation mode."""
    rng = torch.Generator().manual_seed(seed)
    linear = nn.Linear(16, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, 16, generator=rng))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), linear)
