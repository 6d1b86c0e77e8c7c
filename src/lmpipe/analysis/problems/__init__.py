"""Problems of the handout; registry.py has the function `analyze(results) -> Finding` of each.

Imports the rest of analysis and the packages below it.
"""
