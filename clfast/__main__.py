"""``python -m clfast``."""

from .cli import main

main(prog_name="clfast")
