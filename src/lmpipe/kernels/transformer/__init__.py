"""Compiled kernels of the transformer: its layers in training (train.py), and the whole model in inference (infer.py).

They are called by lmpipe.model.functional and lmpipe.generation.inference. May import kernels.runtime, and nothing of
the model: structs.py says how arguments are passed.
"""
