"""The training recipe: every setting with its default and its bounds, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from cxrseg.runtime.core.labels import HEART, PROTOCOLS, labels_of
from cxrseg.trainer.adapt.settings import AdapterConfig, QuantizationConfig

Structure = Literal["fields", "whole", "heart"]
STRUCTURES: tuple[Structure, ...] = (*PROTOCOLS, "heart")

MAX_MASKS = 4
"""Masks of a SAM with a ViT, as in Meta's files."""

Method = Literal["adalora", "decoder", "full"]
ModelName = Literal["conv_n", "conv_t", "vit_n", "vit_t", "vit_b", "vit_l", "vit_h", "unet"]
StageChoice = Literal["1", "2", "all"]

MANY = 1_000_000
"""Largest number of images, epochs or minutes that anybody means."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
"""Red, green, blue; a gray value three times."""


class ColorRecipe(_Settings):
    """What the colors of the masks mean: `right` and `left`, or `lungs`.

    Attributes:
        right: Color of the right lung.
        left: Color of the left lung.
        lungs: Color of both lungs.
        background: Colors of all that is no lung.
    """

    right: Color | None = None
    left: Color | None = None
    lungs: Color | None = None
    background: tuple[Color, ...] = ((0, 0, 0),)

    @model_validator(mode="after")
    def _each_color_once(self) -> ColorRecipe:
        sides = (self.right is not None, self.left is not None)
        if any(sides) != all(sides) or all(sides) == (self.lungs is not None):
            raise ValueError("tell right and left, or lungs alone")
        lungs = [color for color in (self.right, self.left, self.lungs) if color is not None]
        named = [*lungs, *self.background]
        if not self.background or len(set(named)) < len(named):
            raise ValueError("each color once, and at least one for the background")
        return self


class DataRecipe(_Settings):
    """Which samples are used, and how often.

    Attributes:
        where: Column -> accepted values; other rows of a CSV are left out.
        group_column: CSV column that names the source of a sample.
        balance: A source of n samples is drawn as often as n to this power says: 1 for every image
            alike, 0 for every source alike.
        val_images: Validation images per epoch, evenly chosen; 0 for all.
        colors: What the colors of the masks mean, where they are neither gray nor cxrseg's own.
        max_odd: Largest share of pairs, of all and of every source, that may look odd.
    """

    where: dict[str, list[str]] = Field(default_factory=dict)
    group_column: str = "source"
    balance: float = Field(0.5, ge=0, le=1)
    val_images: int = Field(300, ge=0, le=MANY)
    colors: ColorRecipe | None = None
    max_odd: float = Field(0.5, ge=0, le=1)


Channels = Annotated[int, Field(ge=1, le=4096)]


class UNetRecipe(_Settings):
    """Size of a U-Net.

    Attributes:
        channels: Of the levels, the finest first: two to five levels, each of which but the first
            halves the image's side.
    """

    channels: tuple[Channels, ...] = Field((24, 48, 96, 192, 384), min_length=2, max_length=5)


class AugmentRecipe(_Settings):
    """How strongly training images are varied; 0 turns a transform off.

    Attributes:
        rotation: Largest rotation, degrees.
        scale: Largest change of height or width, as a share; each on its own, so the aspect varies.
        shift: Largest shift, as a share of the side.
        shear: Largest shear, as a tangent.
        geometry: Probability of the four above together.
        mirror: Probability of a mirror image, in which right and left lung change places.
        crop: Probability of a zoom by up to 1.5 that cuts the lungs.
        gamma: Probability of a gamma between 0.5 and 2.
        contrast: Probability of a linear change of contrast about the mean.
        noise: Probability of Gaussian noise.
        blur: Probability of Gaussian blur.
        occlusion: Probability of blank rectangles.
        invert: Probability of an inverted gray scale.
        opacity: Probability of a white ellipse with a soft edge, which hides lung.
        exposure: Probability of uneven exposure.
    """

    rotation: float = Field(12, ge=0, le=90)
    scale: float = Field(0.2, ge=0, le=0.5)
    shift: float = Field(0.08, ge=0, le=0.5)
    shear: float = Field(0.06, ge=0, le=0.5)
    geometry: float = Field(0.9, ge=0, le=1)
    mirror: float = Field(0.25, ge=0, le=1)
    crop: float = Field(0.1, ge=0, le=1)
    gamma: float = Field(0.5, ge=0, le=1)
    contrast: float = Field(0.3, ge=0, le=1)
    noise: float = Field(0.25, ge=0, le=1)
    blur: float = Field(0.15, ge=0, le=1)
    occlusion: float = Field(0.15, ge=0, le=1)
    invert: float = Field(0.03, ge=0, le=1)
    opacity: float = Field(0, ge=0, le=1)
    exposure: float = Field(0, ge=0, le=1)


class StageRecipe(_Settings):
    """One stage of training.

    Attributes:
        epochs: Number of epochs; 0 in stage 2 calibrates to INT8 without training (PTQ).
        images_per_epoch: Images drawn for an epoch; 0 for as many as there are.
        batch_size: Images per step and device.
        lr: Peak learning rate of the encoder or its adapters.
        decoder_lr: Peak learning rate of mask decoder and prompt encoder.
        weight_decay: AdamW's, on matrices alone.
        warmup: Share of the steps in which the learning rate rises.
        patience: Epochs without a better score before training stops; 0 for never.
        ema: Decay per step of the moving average of the weights that is validated and kept in place
            of the last weights, for stage 1 without adapters; 0 for none.
        skip_mislabeled: Learn nothing from an image whose mask agrees better with what the network
            finds under another protocol than under its own: a set of labels may mix both. For a
            network that already tells them apart.
        distillation: Share of the loss that is the distance from what every ``--teacher`` finds on
            average, in place of the distance from the masks; 0 for none.
        clicks: Simulated clicks that correct a mask of each image, one after the other; with them
            the network learns to doubt its masks. 0 for none; for a SAM of convolutions.
    """

    epochs: int = Field(20, ge=0, le=MANY)
    images_per_epoch: int = Field(0, ge=0, le=MANY)
    batch_size: int = Field(16, ge=1, le=4096)
    lr: float = Field(1e-3, gt=0, le=100)
    decoder_lr: float = Field(1e-3, gt=0, le=100)
    weight_decay: float = Field(1e-2, ge=0, le=100)
    warmup: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(0, ge=0, le=MANY)
    ema: float = Field(0, ge=0, lt=1)
    skip_mislabeled: bool = False
    distillation: float = Field(0, ge=0, le=1)
    clicks: int = Field(0, ge=0, le=8)


Device = Annotated[int, Field(ge=-1, le=1024)]
Devices = Device | Annotated[str, Field(max_length=64)] | list[Device]


class Recipe(_Settings):
    """All settings of a run.

    Attributes:
        seed: Seed of weights, order and augmentation.
        model: The network: a SAM of one of these sizes, or MONAI's U-Net.
        unet: Size of the U-Net.
        global_attention: Drop the attention windows of Meta's networks.
        image_size: Side of the model input in pixels, a multiple of 16.
        labels: What to learn: label protocols, each of which gives a right and a left channel, and
            the heart, from the images that have a mask of it.
        method: What stage 1 trains: adapters and decoder, the decoder alone, or everything, which
            is what a U-Net takes.
        precision: Lightning's; stage 2 always runs in 32 bit.
        gradient_checkpointing: Trade time for memory in stage 1.
        accelerator: Lightning's: auto, cpu, gpu, ...
        devices: Lightning's: a number, a list, or auto.
        calibration_images: Training images that set the first activation ranges of stage 2.
        sensitivity_images: Validation images that decide which layers stay in floating point.
        checkpoint_minutes: Time between two checkpoints within an epoch.
    """

    seed: int = Field(0, ge=0, lt=2**32)
    model: ModelName = "vit_t"
    unet: UNetRecipe = UNetRecipe()
    global_attention: bool = False
    image_size: int = Field(256, ge=32, le=2048, multiple_of=16)
    labels: tuple[Structure, ...] = ("fields",)
    method: Method = "adalora"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    gradient_checkpointing: bool = False
    accelerator: str = "auto"
    devices: Devices = "auto"
    calibration_images: int = Field(64, ge=1, le=MANY)
    sensitivity_images: int = Field(12, ge=1, le=MANY)
    checkpoint_minutes: float = Field(3, gt=0, le=MANY)
    data: DataRecipe = DataRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    adapters: AdapterConfig = AdapterConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    stage1: StageRecipe = StageRecipe()
    stage2: StageRecipe = StageRecipe(epochs=5, lr=1e-4, decoder_lr=2e-5)

    @field_validator("labels")
    @classmethod
    def _labels_once(cls, labels: tuple[Structure, ...]) -> tuple[Structure, ...]:
        if not set(labels) & set(PROTOCOLS) or len(set(labels)) != len(labels):
            raise ValueError("name each once, and fields or whole at least")
        return tuple(name for name in STRUCTURES if name in labels)

    @field_validator("stage1")
    @classmethod
    def _stage1_trains(cls, stage1: StageRecipe) -> StageRecipe:
        if not stage1.epochs:
            raise ValueError("epochs: only stage 2 does something without any")
        return stage1

    @model_validator(mode="before")
    @classmethod
    def _unets_train_everything(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("model") == "unet":
            return {"method": "full", **data}
        return data

    @model_validator(mode="after")
    def _unets_are_no_sams(self) -> Recipe:
        if self.model == "unet":
            if self.method != "full":
                raise ValueError("a U-Net has neither adapters nor a mask decoder: method: full")
            if self.global_attention or self.gradient_checkpointing:
                raise ValueError("global_attention and gradient_checkpointing are for SAMs")
        return self

    @model_validator(mode="after")
    def _ema_of_weights_alone(self) -> Recipe:
        # An average over steps that prune ranks, or track scales, belongs to no network that was.
        if self.stage2.ema or (self.stage1.ema and self.method == "adalora"):
            raise ValueError("ema is for stage 1 with the methods full and decoder")
        return self

    @model_validator(mode="after")
    def _clicks_for_edge_sams(self) -> Recipe:
        if (self.stage1.clicks or self.stage2.clicks) and not self.model.startswith("conv_"):
            raise ValueError("clicks are for conv_t and conv_n")
        return self

    @model_validator(mode="after")
    def _masks_for_all_labels(self) -> Recipe:
        if self.model.startswith("vit_") and len(self.channels) > MAX_MASKS:
            raise ValueError(f"a {self.model} has {MAX_MASKS} masks: leave one of the labels out")
        return self

    @model_validator(mode="after")
    def _mislabeled_among_protocols(self) -> Recipe:
        if not set(PROTOCOLS) <= set(self.labels) and (
            self.stage1.skip_mislabeled or self.stage2.skip_mislabeled
        ):
            raise ValueError("skip_mislabeled is for labels of both protocols")
        return self

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the output channels."""
        lungs = [
            label.name for name in PROTOCOLS if name in self.labels for label in labels_of(name)
        ]
        return (*lungs, HEART.name) if "heart" in self.labels else tuple(lungs)
