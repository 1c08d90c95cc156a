"""``python -m benchmarks``: the benchmark."""

from benchmarks.run import main

main()
