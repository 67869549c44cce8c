"""Merge similar tokens of a picture between the encoder's layers, so that later layers compute fewer.

Token merging, without training: D. Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (arXiv
2210.09461), section 3. This is written from the paper; its authors' code has a non-commercial licence.

In each layer, between attention and MLP, the patches are dealt alternately into two sets. Each of the first
set is matched with the one of the second whose keys are most similar, and the n best matches are merged into
their mean, weighted by how many patches each token stands for. The class token is never merged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from .checkpoint import Checkpoint, ExportError


def set_merging(checkpoint: Checkpoint, merge: int) -> None:
    """Make its encoder merge `merge` tokens in each layer. Raises ExportError if there are too few."""
    vision = checkpoint.model.config.vision_config
    layers, patches = vision.num_hidden_layers, (vision.image_size // vision.patch_size) ** 2
    most = patches // (layers + 1)  # the last layer has twice as many left as it merges
    if not 0 <= merge <= most:
        raise ExportError(
            f"MERGE={merge} must be between 0 and {most}: {layers} layers share {patches} patches"
        )
    vision.merge = checkpoint.about["merge"] = merge


def merge_per_layer(vision: PretrainedConfig) -> int:
    """Return how many tokens each layer of an encoder merges."""
    return getattr(vision, "merge", 0)


def count_tokens(vision: PretrainedConfig) -> int:
    """Return how many tokens an encoder returns, the class token included."""
    patches: int = (vision.image_size // vision.patch_size) ** 2
    return patches + 1 - merge_per_layer(vision) * vision.num_hidden_layers


class Rows(torch.autograd.Function):
    """Rows of each picture, in one operator: (P, N, width) and indices (P, M) to (P, M, width)."""

    @staticmethod
    def symbolic(graph: Any, x: Any, indices: Any) -> Any:
        """Return the node that the exporter writes."""
        last = graph.op("Constant", value_t=torch.tensor([-1]))
        return graph.op("GatherND", x, graph.op("Unsqueeze", indices, last), batch_dims_i=1)

    @staticmethod
    def forward(ctx: Any, x: Tensor, indices: Tensor) -> Tensor:
        """Compute the same in PyTorch, with which the exported graph is compared."""
        return x.take_along_dim(indices[..., None], dim=1)


def merge(x: Tensor, sizes: Tensor | None, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge `count` pairs of tokens. Return the tokens and how many patches each stands for.

    `x` is (P, N, width), `sizes` (P, N, 1) or None before the first merge, and `keys` (P, N, size) are means
    over the heads. The results have N - `count` tokens: the class token, the first set, and the second set.
    """
    # Constants for the exporter, too: the function reads the shape of the outputs before it runs the encoder.
    length, width = int(x.shape[1]) - count, int(x.shape[2])
    # The sums of the patches' vectors, and beside them their number, so that one product adds both.
    sums = nn.functional.pad(x, (0, 1), value=1.0) if sizes is None else torch.cat((x * sizes, sizes), -1)
    first, second = sums[:, 1::2], sums[:, 2::2]
    kept, merged, into = match(keys[:, 1:], count)
    # (P, second, count): 1 where a merged token goes.
    goes = (into[:, None, :] == torch.arange(second.shape[1])[:, None]).float()
    second = second + goes @ Rows.apply(first, merged)
    sums = torch.cat((sums[:, :1], Rows.apply(first, kept), second), dim=1).reshape(-1, length, width + 1)
    return sums[..., :-1] / sums[..., -1:], sums[..., -1:]


def match(keys: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Match the tokens of even index with those of odd index by the cosine of their `keys`, (P, N, size).

    Returns the indices within the first set that are kept, those that are merged, and for the
    latter the indices within the second set.
    """
    keys = keys / keys.norm(dim=-1, keepdim=True)
    similarity, nearest = (keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)).max(dim=-1)
    ranked = similarity.argsort(dim=-1, descending=True)
    merged, kept = ranked[:, :count], ranked[:, count:]
    return kept, merged, nearest.gather(-1, merged)
