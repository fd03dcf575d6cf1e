"""Transforms that read real images, render phantoms and alter copies."""

from .copy_alterations import COPY_ALTERATIONS, CopyAlteration, RandomCopies, alterations_of, planted_copies
from .load_radiograph import LoadRadiograph, LoadRadiographD, LoadRadiographd, LoadRadiographDict
from .render_fundus import (
    FundusSpec,
    RenderFundus,
    RenderFundusD,
    RenderFundusd,
    RenderFundusDict,
    render_fundus_phantom,
)
from .render_phantom import (
    PhantomSpec,
    RenderPhantom,
    RenderPhantomD,
    RenderPhantomd,
    RenderPhantomDict,
    render_chest_phantom,
)
