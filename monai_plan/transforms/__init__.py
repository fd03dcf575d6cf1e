"""Transforms that read real images, replace, judge and encode them, render phantoms and alter copies."""

from .copy_alterations import COPY_ALTERATIONS, CopyAlteration, RandomCopies, alterations_of, planted_copies
from .encode_latent import (
    EncodeLatent,
    EncodeLatentD,
    EncodeLatentd,
    EncodeLatentDict,
    NearestAnchor,
    NearestAnchorD,
    NearestAnchord,
    NearestAnchorDict,
)
from .load_radiograph import LoadRadiograph, LoadRadiographD, LoadRadiographd, LoadRadiographDict
from .pass_gate import PassGate, PassGateD, PassGated, PassGateDict
from .rand_synthetic_image import (
    RandSyntheticImage,
    RandSyntheticImageD,
    RandSyntheticImaged,
    RandSyntheticImageDict,
)
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
