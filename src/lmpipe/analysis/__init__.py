"""Analysis of a study's results: tables of runs, statistics, ranking, and the findings of each problem.

Computes numbers and the data of plots; draws nothing. Imports planning and the packages below it, never torch.
"""
