"""Transforms that read real images and render phantoms."""

from .load_radiograph import LoadRadiograph, LoadRadiographD, LoadRadiographd, LoadRadiographDict
from .render_phantom import (
    PhantomSpec,
    RenderPhantom,
    RenderPhantomD,
    RenderPhantomd,
    RenderPhantomDict,
    render_chest_phantom,
)
