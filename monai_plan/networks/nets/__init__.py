"""Networks: generator, discriminator, embedder."""

from .identity_embedder import IdentityEmbedder
from .published_weights import (
    discriminator_state_from_published,
    generator_from_published,
    generator_state_from_published,
)
from .style_discriminator import StyleDiscriminator
from .style_generator import StyleGenerator
