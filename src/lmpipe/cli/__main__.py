"""Entry of `python -m lmpipe.cli`."""

from lmpipe.cli.main import main

main()
