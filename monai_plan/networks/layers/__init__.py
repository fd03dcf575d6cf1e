"""Building blocks of the generator and the discriminator."""

from .augment_pipe import AugmentPipe
from .equalized import EqualizedConv2d, EqualizedLinear
from .modulated_conv import ModulatedConv2d, ToImage
