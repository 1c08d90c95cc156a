"""``python -m benchmarks``: the call benchmark."""

from benchmarks.calls import main

main()
