"""Endurance runs that try to break lmpipe: kills, damaged files, hostile studies, a sweep on SLURM."""
