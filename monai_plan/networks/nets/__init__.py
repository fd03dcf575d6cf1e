"""Networks: generator, discriminator, embedder, encoder, and the two that plan walks in W."""

from .identity_embedder import IdentityEmbedder
from .latent_encoder import LatentEncoder
from .latent_guide import LatentGuide
from .published_weights import (
    discriminator_from_published,
    discriminator_state_from_published,
    generator_from_published,
    generator_state_from_published,
    published_networks,
)
from .saved_network import SavedNetwork, restored
from .style_discriminator import StyleDiscriminator
from .style_generator import StyleGenerator
from .walk_network import WalkNetwork
