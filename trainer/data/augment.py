"""Augmentation of whole batches on the device of the network: what clinics do to X-rays.

Plain torch, because it has to keep up with a GPU and cost little beside a CPU: each change is
computed for the images alone that it was drawn for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrseg.trainer.data.planes import MIRRORED
from cxrseg.trainer.recipe import AugmentRecipe

ZOOM = (1.1, 1.5)
"""How much a crop enlarges, at least and at most."""

CONTRAST = 0.4
GAMMA = 2.0
NOISE = 0.07
BLUR = (0.3, 1.7)
"""Largest changes: of contrast about the mean, as a share; of gamma, as a factor; standard
deviations of noise, in gray values of [0, 1], and of blur, in pixels."""

EXPOSURE = 0.08
"""Standard deviation of uneven exposure, in gray values of [0, 1]."""

OPACITY = (0.15, 0.6)
"""Share of the way to white that an opacity goes."""


def vary(image: Tensor, planes: Tensor, recipe: AugmentRecipe) -> tuple[Tensor, Tensor]:
    """Vary images and masks, their geometry alike, with torch's random numbers.

    Args:
        image: float32 [B, 1, S, S] in [0, 1].
        planes: float32 [B, P, s, s] in [0, 1], as `planes_of` orders them.
        recipe: Strengths and probabilities.

    Returns:
        Both, of the same shapes; gray values may leave [0, 1].
    """
    if recipe.geometry or recipe.mirror or recipe.crop:
        places, mirrored = _places(len(image), recipe, image.device)
        image, planes = _moved(image, places), _moved(planes, places)
        order = [MIRRORED.get(plane, plane) for plane in range(planes.shape[1])]
        planes = torch.where(mirrored[:, None, None, None], planes[:, order], planes)
    for probability, change in (
        (recipe.opacity, _opaque),
        (recipe.contrast, _contrasted),
        (recipe.gamma, _with_gamma),
        (recipe.blur, _blurred),
        (recipe.exposure, _unevenly_exposed),
        (recipe.noise, _noisy),
        (recipe.occlusion, _occluded),
        (recipe.invert, _inverted),
    ):
        image = _some(image, probability, change)
    return image, planes


def _places(count: int, recipe: AugmentRecipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw affine maps [B, 2, 3] of places in the result to places in the image, and mirrors [B].

    Coordinates range from -1 to 1.
    """

    def within(limit: float) -> Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * limit

    def chance(probability: float) -> Tensor:
        return torch.rand(count, device=device) < probability

    moved = chance(recipe.geometry).float()
    angle = moved * within(math.radians(recipe.rotation))
    low, high = ZOOM
    zoom = torch.where(chance(recipe.crop), low + (high - low) * torch.rand_like(moved), 1)
    width = (1 + moved * within(recipe.scale)) / zoom
    height = (1 + moved * within(recipe.scale)) / zoom
    shear = moved * within(recipe.shear)
    # A crop lies anywhere within the image.
    right = 2 * moved * within(recipe.shift) + (1 - 1 / zoom) * within(1)
    down = 2 * moved * within(recipe.shift) + (1 - 1 / zoom) * within(1)
    mirrored = chance(recipe.mirror)
    side = torch.where(mirrored, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = (
        (cos * width * side, shear - sin * height, right),
        (sin * width * side, cos * height, down),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1), mirrored


def _moved(x: Tensor, places: Tensor) -> Tensor:
    grid = F.affine_grid(places, [len(x), 1, *x.shape[-2:]], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _some(image: Tensor, probability: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change each image with a probability."""
    drawn = (torch.rand(len(image), device=image.device) < probability).nonzero().flatten()
    return image.index_copy(0, drawn, change(image[drawn])) if len(drawn) else image


def _each(image: Tensor, low: float = 0, high: float = 1) -> Tensor:
    """Draw a number for each image: [B, 1, 1, 1]."""
    return low + (high - low) * torch.rand(len(image), 1, 1, 1, device=image.device)


def _axis(image: Tensor) -> Tensor:
    side = image.shape[-1]
    return (torch.arange(side, device=image.device) + 0.5) / side


def _smooth(image: Tensor, cells: int) -> Tensor:
    """Draw a smooth field of normal numbers, of the images' shape."""
    coarse = torch.randn(len(image), 1, cells, cells, device=image.device)
    return F.interpolate(coarse, image.shape[-2:], mode="bicubic", align_corners=False)


def _opaque(image: Tensor) -> Tensor:
    """Whiten an ellipse with a soft edge: what hides lung, and is lung in the mask all the same."""
    axis = _axis(image)
    across = (axis[None, None, None, :] - _each(image)) / _each(image, 0.06, 0.3)
    along = (axis[None, None, :, None] - _each(image)) / _each(image, 0.06, 0.3)
    inside = (4 * (1.3 - across.square() - along.square())).sigmoid()
    return image + _each(image, *OPACITY) * inside * (image.amax((2, 3), keepdim=True) - image)


def _contrasted(image: Tensor) -> Tensor:
    mean = image.mean((2, 3), keepdim=True)
    return (image - mean) * _each(image, 1 - CONTRAST, 1 + CONTRAST) + mean


def _with_gamma(image: Tensor) -> Tensor:
    limit = math.log(GAMMA)
    return image.clamp(1e-4, 1) ** _each(image, -limit, limit).exp()


def _blurred(image: Tensor) -> Tensor:
    """Convolve each image with a Gaussian of its own."""
    reach = round(2 * BLUR[1])
    steps = torch.arange(-reach, reach + 1, device=image.device)
    kernel = (-0.5 * (steps / _each(image, *BLUR)).square()).exp()
    kernel = kernel / kernel.sum(-1, keepdim=True)  # [B, 1, 1, 2 * reach + 1]
    x, count = image.transpose(0, 1), len(image)
    x = F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel, groups=count)
    return F.conv2d(x, kernel.transpose(2, 3), groups=count).transpose(0, 1)


def _unevenly_exposed(image: Tensor) -> Tensor:
    return image + EXPOSURE * _smooth(image, 5)


def _noisy(image: Tensor) -> Tensor:
    return image + torch.randn_like(image) * _each(image, 0, NOISE)


def _occluded(image: Tensor) -> Tensor:
    """Blank a rectangle of up to two fifths of the side."""
    axis = _axis(image)
    across = (axis[None, None, None, :] - _each(image)).abs() < _each(image, 0.05, 0.2)
    along = (axis[None, None, :, None] - _each(image)).abs() < _each(image, 0.05, 0.2)
    return torch.where(across & along, _each(image) * image.amax((2, 3), keepdim=True), image)


def _inverted(image: Tensor) -> Tensor:
    return 1 - image
