"""Speed beside named peers (`python -m benchmarks.NAME`), and endurance runs that try to break lmpipe."""
