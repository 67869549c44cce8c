"""Metrics of captions: BLEU-4 and CIDEr, agreement with fp32, confidence."""
