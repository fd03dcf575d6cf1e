"""Networks: generator, discriminator, embedder."""

from .identity_embedder import IdentityEmbedder
from .published_weights import (
    discriminator_from_published,
    discriminator_state_from_published,
    generator_from_published,
    generator_state_from_published,
    published_networks,
)
from .saved_network import SavedNetwork
from .style_discriminator import StyleDiscriminator
from .style_generator import StyleGenerator
