"""Image classification: a vision transformer with one linear head, and how pictures become its inputs.

Pictures are squares of uint8 pixels until a batch is made (see ``motet.data.pixels``); then values are scaled to
0 .. 1 and normalised by ImageNet's mean and standard deviation, as the base models were trained.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

if TYPE_CHECKING:
    from pathlib import Path

VISION_MODELS = frozenset({"dinov2", "dinov2_with_registers", "vit"})
"""``model_type`` of what ``ImageClassifier`` knows: a class token first, then registers, then patches."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ImageClassifier(nn.Module):
    """A vision transformer, one vector of its last hidden states, and one linear head.

    The vector is the mean over patches, or with ``pooling="model"`` the class token.
    Forward: pixel_values (B, 3, S, S) as ``normalised`` makes them -> logits (B, num_labels).
    """

    base_model_prefix = "backbone"
    """Read by peft, which knows by it where layers lie that transformers once called otherwise."""

    def __init__(
        self, backbone: nn.Module, num_labels: int, *, pooling: Literal["mean", "model"] = "mean"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        config: Any = backbone.config
        self.config = config
        self.pooling = pooling
        self.head = nn.Linear(config.hidden_size, num_labels)
        self._before_patches = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        self._options = {"interpolate_pos_encoding": True} if config.model_type == "vit" else {}

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **_unused: Any,  # noqa: ANN401 - peft passes what transformers models take
    ) -> SequenceClassifierOutput:
        """Logits, and the mean cross-entropy when labels are given."""
        hidden_BTH = self.backbone(pixel_values=pixel_values, **self._options).last_hidden_state
        pooled_BH = (
            hidden_BTH[:, 0] if self.pooling == "model" else hidden_BTH[:, self._before_patches :].mean(1)
        )
        logits = self.head(pooled_BH)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Pixel values as the model reads them.

    Args:
      pixels: (B, 3, S, S) uint8.

    Returns:
      Same shape, float32, zero mean and unit variance over ImageNet.
    """
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def write_preprocessor(image_size: int, folder: Path) -> None:
    """Write ``preprocessor_config.json``, by which transformers' image processors prepare pictures the same way."""
    settings = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
