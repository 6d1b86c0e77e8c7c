"""Plots as SVG with their numbers as CSV: charts of findings, plots of an experiment, the ablations' forest plot.

It may import analysis, study and io.
"""
