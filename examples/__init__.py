"""Small programs that show one thing each; run them from this folder's parent: ``python -m examples.calling``."""
