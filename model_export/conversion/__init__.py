"""Convert a BLIP checkpoint into a quantized ONNX model folder."""
