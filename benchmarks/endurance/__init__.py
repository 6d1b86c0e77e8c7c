"""Endurance runs that try to break lmpipe: kills, damaged files, hostile studies and servers, a sweep on SLURM."""
