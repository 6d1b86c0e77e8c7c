"""The transformer language model: torch's modules and autograd functions, and its accounting in closed form.

Torch is imported by transformer, functional and torch_counts alone; planning and generation use the others. May import
study, kernels, io and errors.
"""
