"""Configure optimum's exporter, which does not support `blip`, to export a captioner as two graphs.

    encoder   pixel_values (P, 3, S, S)  ->  cross.0 ... cross.2n-1  (P, heads, N, head_size)
    decoder   input_ids (B, L), past.0 ... past.2n-1 (B, heads, T, head_size), cross.*
              ->  logits (B, vocabulary) of the last position, present.0 ... present.2n-1

n is the number of decoder layers, N the number of image tokens; even numbers are keys, odd ones values.
The cross-attention projection runs once a picture, in the encoder. One decoder graph serves the prompt
(L > 1, T = 0) and every later token (L = 1); with beams (B > 1), one picture's cross (P = 1) is broadcast.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedConfig
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration, PretrainedConfig

from .merging import count_tokens, merge, merge_per_layer

TASK = "image-to-text"


def _heads(x: Tensor, attention: Any) -> Tensor:
    """Split the heads: (B, L, heads * d) to (B, heads, L, d)."""
    heads: Tensor = x.view(x.shape[0], -1, attention.num_attention_heads, attention.attention_head_size)
    return heads.transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, size: int, ahead: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(size)
    context = (scores if ahead is None else scores + ahead).softmax(-1) @ value
    return context.transpose(1, 2).flatten(2)


class FusedAttention(torch.autograd.Function):
    """ONNX Runtime's own attention, which never holds the scores of all tokens at once (ORT #20805).

    BLIP-base's would be 16 MB a layer. Inputs and output are (P, N, heads * head_size).
    """

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        """Return the node that the exporter writes."""
        node = graph.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads)
        node.setType(query.type())
        return node

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Compute the same in PyTorch, with which the exported graph is compared."""
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
        return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    """The vision model and the decoder's cross-attention projections."""

    text: Any  # else the type checker takes every layer for "Tensor | Module"

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        self.config, self.vision, self.text = model.config, model.vision_model, model.text_decoder.bert

    def forward(self, pixel_values: Tensor) -> dict[str, list[Tensor]]:
        x, sizes = self.vision.embeddings(pixel_values), None
        count = merge_per_layer(self.config.vision_config)
        for layer in self.vision.encoder.layers:
            own = layer.self_attn
            query, key, value = own.qkv(layer.layer_norm1(x)).split(own.embed_dim, dim=-1)
            x = x + own.projection(FusedAttention.apply(query, key, value, own.num_heads))
            if count:
                x, sizes = merge(x, sizes, key.unflatten(-1, (own.num_heads, -1)).mean(dim=-2), count)
            x = x + layer.mlp(layer.layer_norm2(x))
        states = self.vision.post_layernorm(x)
        attentions = [layer.crossattention.self for layer in self.text.encoder.layer]
        return {"cross": [_heads(part(states), a) for a in attentions for part in (a.key, a.value)]}


class Decoder(nn.Module):
    """The text decoder, with its caches as plain tensors instead of transformers' cache objects."""

    text: Any

    def __init__(self, model: BlipForConditionalGeneration) -> None:
        super().__init__()
        self.config, self.text = model.config, model.text_decoder

    def forward(self, input_ids: Tensor, past: list[Tensor], cross: list[Tensor]) -> dict[str, Any]:
        behind, length = past[0].shape[2], input_ids.shape[1]
        here = torch.arange(behind, behind + length)
        # Added as in BlipTextModel.get_extended_attention_mask: -10,000 for later positions.
        ahead = (torch.arange(behind + length)[None, :] > here[:, None]).float() * -10000.0
        x = self.text.bert.embeddings(input_ids=input_ids, position_ids=here[None])
        present = []
        for i, layer in enumerate(self.text.bert.encoder.layer):
            own, other = layer.attention.self, layer.crossattention.self
            key = torch.cat((past[2 * i], _heads(own.key(x), own)), dim=2)
            value = torch.cat((past[2 * i + 1], _heads(own.value(x), own)), dim=2)
            present += [key, value]
            size = own.attention_head_size
            attended = _attend(_heads(own.query(x), own), key, value, size, ahead)
            x = layer.attention.output(attended, x)
            cross_attended = _attend(_heads(other.query(x), other), cross[2 * i], cross[2 * i + 1], size)
            x = layer.crossattention.output(cross_attended, x)
            x = layer.feed_forward_chunk(x)
        # Only the last position is needed; the other rows of 30,524 words would be discarded.
        return {"logits": self.text.cls(x[:, -1:])[:, 0], "present": present}


@TasksManager.create_register("onnx")("blip", TASK)
class BlipOnnxConfig(OnnxConfig):
    """Inputs and outputs of both graphs; `part` selects one."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    ATOL_FOR_VALIDATION = 1e-4

    def __init__(
        self, config: PretrainedConfig, task: str = TASK, part: str = "encoder", **options: Any
    ) -> None:
        super().__init__(config, task=task, **options)
        self.part = part

    def _names(self, kind: str, axes: dict[int, str]) -> dict[str, dict[int, str]]:
        return {f"{kind}.{i}": axes for i in range(2 * self._config.text_config.num_hidden_layers)}

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        if self.part == "encoder":
            return {"pixel_values": {0: "pictures"}}
        past = self._names("past", {0: "rows", 2: "behind"})
        return {"input_ids": {0: "rows", 1: "length"}, **past, **self._names("cross", {0: "pictures"})}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        if self.part == "encoder":
            return self._names("cross", {0: "pictures"})
        return {"logits": {0: "rows"}, **self._names("present", {0: "rows", 2: "total"})}

    def generate_dummy_inputs(self, framework: str = "pt", **shapes: Any) -> dict[str, Any]:
        """Return two beams over one picture and three new tokens after four, so that no traced axis is 1."""
        vision, text = self._config.vision_config, self._config.text_config
        tokens = count_tokens(vision)
        heads, size = text.num_attention_heads, text.hidden_size // text.num_attention_heads
        every = range(2 * text.num_hidden_layers)
        if self.part == "encoder":
            made: dict[str, Any] = {"pixel_values": torch.randn(2, 3, vision.image_size, vision.image_size)}
        else:
            made = {
                "input_ids": torch.randint(0, text.vocab_size, (2, 3)),
                "past": [torch.randn(2, heads, 4, size) for _ in every],
                "cross": [torch.randn(1, heads, tokens, size) for _ in every],
            }
        if framework == "np":
            return {k: [t.numpy() for t in v] if isinstance(v, list) else v.numpy() for k, v in made.items()}
        return made
