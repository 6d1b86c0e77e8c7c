"""Problems of the write-up, one module each: `analyze(results)` returns its finding.

Imports the rest of analysis and the packages below it; registry.py runs all problems of study/problems.py.
"""
