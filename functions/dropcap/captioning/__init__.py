"""Caption pictures with BLIP in ONNX Runtime."""
