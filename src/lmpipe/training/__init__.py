"""Training: the run store, the trainer and its step, optimizer, checkpoints, several processes, profiling.

Imports errors, io, provenance, study, kernels, tokenizer, data and model; never planning or what reads results.
run, run_documents and progress load no torch, so that other packages can read runs quickly.
"""
