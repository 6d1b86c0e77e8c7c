"""Report of a study: the HTML page with its plots, the comparison of two studies, and `lmpipe status`.

Findings come in as data; this package formats, draws and lays them out. It may import every package but cli.
"""
