"""The fuzzer, ``python -m fuzz``: odd inputs for each reader of strangers' bytes.

`draw` turns bytes into choices, `inputs` makes bodies, properties and messages of the choices, `wire` makes frames, and
`targets` read them with the package's own code. `engines` make the bytes: random mutations, hypothesis and atheris.
`reader` holds each input to its time and its memory. Inputs that reach what others do not, and all that once failed,
are kept in ``fuzz/corpus``: `corpus` reads it, and ``python -m fuzz.reach`` chooses it.
"""
