"""Text from a trained run: compiled inference with a KV cache, sampling, text metrics, and exports of the model.

Nothing here imports torch, so that a command starts in a fraction of a second. May import model (what needs no torch),
tokenizer, study, kernels, provenance, io and errors.
"""
