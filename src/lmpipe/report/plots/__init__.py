"""Plots as SVG with their numbers as CSV: charts of findings, plots of an experiment, the ablations' forest plot.

It may import analysis, study and io.
"""

import os

from lmpipe.kernels.runtime.disk_cache import cache_folder

# Before matplotlib is imported: one cache of fonts for all jobs, also where the home folder is read-only.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder("matplotlib")))
