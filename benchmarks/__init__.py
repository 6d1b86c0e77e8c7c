"""Side-by-side measurements against peers, and runs that try to break lmpipe: `python -m bench.NAME`."""
