"""Augmentation with MONAI: what clinics do to X-rays, in moderation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cxrseg.trainer.recipe import AugmentRecipe


def augmentation(recipe: AugmentRecipe, size: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Build the training transform.

    Args:
        recipe: Strengths and probabilities.
        size: Side S of the images.

    Returns:
        A MONAI transform of dicts with ``image`` float32 [1, S, S] in [0, 1] and ``mask``
        float32 [3, S, S] in [0, 1]; the geometry of both changes alike.
    """
    from monai.data.meta_obj import set_track_meta
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import (
        RandAdjustContrastd,
        RandCoarseDropoutd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandScaleIntensityFixedMeand,
    )
    from monai.transforms.spatial.dictionary import RandAffined, RandZoomd
    from monai.transforms.transform import RandomizableTransform

    class RandMirror(RandomizableTransform):
        """Mirror image and mask, and swap the mask's planes of right and left lung."""

        def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
            self.randomize(None)
            if not self._do_transform:
                return data
            image, mask = data["image"][..., ::-1], data["mask"][[1, 0, 2], :, ::-1]
            return {**data, "image": image.copy(), "mask": mask.copy()}

    set_track_meta(False)
    both = ("image", "mask")
    hole = max(2, size // 5)
    transform: Callable[[dict[str, Any]], dict[str, Any]] = Compose(
        [
            RandMirror(prob=recipe.mirror),
            RandAffined(
                both,
                prob=recipe.geometry,
                rotate_range=math.radians(recipe.rotation),
                scale_range=(recipe.scale, recipe.scale),
                translate_range=recipe.shift * size,
                shear_range=(recipe.shear, recipe.shear),
                mode="bilinear",
                padding_mode="zeros",
            ),
            RandZoomd(
                both,
                prob=recipe.crop,
                min_zoom=1.1,
                max_zoom=1.5,
                mode="bilinear",
                align_corners=False,
            ),
            RandScaleIntensityFixedMeand(
                "image", prob=recipe.contrast, factors=0.4, preserve_range=False
            ),
            RandAdjustContrastd("image", prob=recipe.gamma, gamma=(0.5, 2.0)),
            RandGaussianSmoothd("image", prob=recipe.blur, sigma_x=(0.3, 1.5), sigma_y=(0.3, 1.5)),
            RandGaussianNoised("image", prob=recipe.noise, std=0.06),
            RandCoarseDropoutd(
                "image",
                prob=recipe.occlusion,
                holes=1,
                max_holes=3,
                spatial_size=max(1, size // 20),
                max_spatial_size=hole,
            ),
            # The window that follows is linear, so -x is as good as 1 - x.
            RandScaleIntensityd("image", prob=recipe.invert, factors=(-2.0, -2.0)),
        ]
    )
    return transform
