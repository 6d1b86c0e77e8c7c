"""Plan of a study: every run and tokenizer resolved, the stages that make them, their cost, and the rules' inputs.

Imports study, provenance and the formulas of model.accounting; nothing heavier. No other package imports Snakemake.
"""
