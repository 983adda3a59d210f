"""The questions that results answer, in the order of the page."""

from __future__ import annotations

TITLE = "Adaptive low-rank, quantization-aware lung segmentation"
"""Heading of a page that is given none."""

SECTIONS: dict[str, tuple[str, str]] = {
    "accuracy": (
        "How good are the masks?",
        "Each mask is compared with one that people drew, at the size of the X-ray. Dice is 1 where"
        " both agree in every pixel; distances tell how far outlines lie apart at their worst. Two"
        " readers do not reach 1 with each other either: on JSRT they overlap by 0.946, a Dice of"
        " about 0.97 (van Ginneken et al. 2006).",
    ),
    "methods": (
        "What would other ways to train have given?",
        "The same training images for each way to fine-tune the network, with and without INT8,"
        " and for a U-Net, which is what most would take; how many each saw stands in the table.",
    ),
    "box-prompts": (
        "What does a box as a prompt give?",
        "The network is told the box around each reference mask, moved a little, as the paper does."
        " In practice nobody knows that box, so these figures stand apart from those above.",
    ),
    "significance": (
        "Does INT8 cost anything?",
        "The same images with the INT8 and the FP32 file of one checkpoint, so that each image is"
        " its own control. One test asks whether they differ at all, another whether they are shown"
        " to be equal within a margin. Only the second can support the word equal.",
    ),
    "ssim": (
        "Where on the image do models differ?",
        "Structural similarity compares small windows of a mask with the same place in the true"
        " one. Its map shows where an outline runs well and where it strays; the difference of two"
        " maps shows where one model does better.",
    ),
    "quantization-error": (
        "What does rounding do inside?",
        "INT8 stores each weight as a whole number of steps. The error of that is at most half a"
        " step, and what it does to the network is read from the output of every layer.",
    ),
    "ranks": (
        "Where did AdaLoRA spend its budget?",
        "Adapters begin with the same rank in every layer. While training goes on, singular values"
        " that matter little are dropped, wherever they are. The map shows what was left, most in"
        " bright layers.",
    ),
    "compression": (
        "How much smaller is it?",
        "The paper's factors are arithmetic on SAM ViT-B; they are repeated here on its real"
        " tensors. Beside them stands what counts on a clinic's PC: bytes of files.",
    ),
    "latency": (
        "How fast is it?",
        "All models take turns on the same machine, so that whatever else it does hits all alike."
        " Ratios travel to other machines better than milliseconds.",
    ),
    "roofline": (
        "How much of the machine is used?",
        "A single large product of matrices shows what the CPU can do at most. A network hardly"
        " reaches that: the share tells how much there is left to win.",
    ),
    "startup": (
        "How long does one image take, from a cold start?",
        "Whole processes, from the command to the finished mask: what somebody at a PC waits for.",
    ),
    "agreement": (
        "Do others see the same lungs?",
        "The same file on other execution providers, and the network in PyTorch, pixel by pixel.",
    ),
    "emulation": (
        "And on older PCs?",
        "Emulated CPUs run the program as an operator would; their masks are compared with ours.",
    ),
    "quality": (
        "What is flagged?",
        "Images that a model should not be trusted on, and how many of them are noticed.",
    ),
    "quality-fit": (
        "Where do the limits of the quality flags come from?",
        "What is usual is fitted to good images, and each limit is set so that few of them are"
        " flagged. The table shows each limit, and the share of good images above it.",
    ),
    "paper": (
        "How was all of this made?",
        "One command exported the checkpoint and made each part. It makes a part again only when"
        " something that the part depends on has changed.",
    ),
}
"""Benchmark -> heading and a few plain words, in the order of the page."""

OTHER = ("Other results", "")
"""Heading of what answers none of them."""
