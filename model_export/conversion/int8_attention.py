"""Compute the encoder's attention in int8, as its matrices are.

It follows SageAttention (arXiv 2410.02367, 2411.10958), which keeps the second product in fp16.

Both products run in the kernels of the matrices: unsigned by signed, 8 by 7 bits, because 8 by 8 overflow
without VNNI. What makes that accurate:

- Keys and values are taken less their means over all tokens. A softmax does not change if all scores of a row
  change alike, and the weights of a row add up to 1, so that the mean of the values is added to the result.
- Queries, keys and values have one scale a head, and the weights of the softmax one a row. A row whose
  attention is spread over all tokens would lose it with the scale of another that looks at one token. Weights
  that round to zero count as the mean of the values.

README.md has the effect on captions and on speed.

`Scan` runs one head after the other: the scores of all heads would take 16 MB in BLIP-base, those of one 1.3.
"""

from __future__ import annotations

import math
import re

from onnx import FunctionProto, ModelProto, helper, numpy_helper, parser

DOMAIN, NAME = "dropcap", "Int8Attention"
# With the 65 tokens of the small model, the fused attention takes 0.8 of the time; with BLIP-base's 577, 1.5.
LEAST_TOKENS = 128

# Inputs and output as of MultiHeadAttention: (1, N, heads * size).
FUNCTION = """
<opset_import: ["" : 18, "com.microsoft" : 1], domain: "dropcap">
Int8Attention (query, key, value) => (attended)
{{
  by_head = Constant <value_ints: ints = [-1, {heads}, {size}]> ()
  by_token = Constant <value_ints: ints = [1, -1, {width}]> ()
  a_row = Constant <value_ints: ints = [1, -1]> ()
  last = Constant <value_ints: ints = [-1]> ()
  one = Constant <value: tensor = float {{1}}> ()
  least = Constant <value: tensor = float {{1e-30}}> ()
  most_signed = Constant <value: tensor = float {{63}}> ()
  most_unsigned = Constant <value: tensor = float {{255}}> ()
  root = Constant <value: tensor = float {{{root}}}> ()
  zero = Constant <value: tensor = int8 {{0}}> ()

  tokens = Shape <start = 1, end = 2> (key)
  tokens_float = Cast <to = 1> (tokens)
  share = Div (one, tokens_float)
  shares = Expand (share, tokens)
  averaging = Reshape (shares, a_row)
  query_heads = Reshape (query, by_head)
  key_heads = Reshape (key, by_head)
  value_heads = Reshape (value, by_head)
  queries = Transpose <perm = [1, 0, 2]> (query_heads)
  keys = Transpose <perm = [1, 0, 2]> (key_heads)
  values = Transpose <perm = [1, 0, 2]> (value_heads)
  outputs = Scan <num_scan_inputs = 3, body = one_head (float[N, D] q, float[N, D] k, float[N, D] v)
    => (float[N, D] output)
  {{
    q_int, q_scale, q_zero = DynamicQuantizeLinear (q)
    q_scale_by_root = Div (q_scale, root)
{key}
    k_columns = Transpose <perm = [1, 0]> (k_int)
    scores = com.microsoft.MatMulIntegerToFloat (q_int, k_columns, q_scale_by_root, k_scale, q_zero)
    weights = Softmax <axis = -1> (scores)
    largest = ReduceMax <keepdims = 1> (weights, last)
    w_scale = Div (largest, most_unsigned)
    w_scales = Squeeze (w_scale, last)
    w_int = QuantizeLinear <axis = 0> (weights, w_scales)
{value}
    products = com.microsoft.MatMulIntegerToFloat (w_int, v_int, one, v_scale)
    scaled = Mul (products, w_scale)
    output = Add (scaled, v_mean)
  }}> (queries, keys, values)
  outputs_by_token = Transpose <perm = [1, 0, 2]> (outputs)
  attended = Reshape (outputs_by_token, by_token)
}}
"""
# `x` less its mean over the tokens -> x_int, x_scale, in 7 bits.
QUANTIZED = """
    x_mean = MatMul (averaging, x)
    x_less = Sub (x, x_mean)
    x_sizes = Abs (x_less)
    x_largest = ReduceMax <keepdims = 0> (x_sizes)
    x_range = Max (x_largest, least)
    x_scale = Div (x_range, most_signed)
    x_int = QuantizeLinear (x_less, x_scale, zero)"""


def quantize_attention(model: ModelProto) -> bool:
    """Replace every MultiHeadAttention of an encoder of many tokens, and return whether there were any.

    Its input becomes a single picture.
    """
    nodes = [node for node in model.graph.node if node.op_type == "MultiHeadAttention"]
    tokens = model.graph.output[0].type.tensor_type.shape.dim[-2].dim_value
    if not nodes or tokens < LEAST_TOKENS:
        return False
    by_output = {node.output[0]: node for node in model.graph.node}
    for node in nodes:
        heads = helper.get_node_attr_value(node, "num_heads")
        sizes = by_output[by_output[node.input[0]].input[1]]  # a constant: how wide the parts of a Split are
        width = int(numpy_helper.to_array(helper.get_node_attr_value(sizes, "value"))[0])
        node.op_type, node.domain = NAME, DOMAIN
        del node.attribute[:]
    model.functions.append(_function(heads, width))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return True


def _function(heads: int, width: int) -> FunctionProto:
    size = width // heads
    parts = {name: re.sub(r"\bx(?=\b|_)", name[0], QUANTIZED) for name in ("key", "value")}
    text = FUNCTION.format(heads=heads, size=size, width=width, root=math.sqrt(size), **parts)
    return parser.parse_function(text)
