"""Inputs that nobody would write, for all that reads what strangers send: ``python -m fuzz``.

`draw` turns bytes into choices, `inputs` makes bodies, properties and frames of the choices, `targets` reads them with
the package's own code, and ``python -m fuzz`` runs the targets. One input is a string of bytes, whoever makes it: a
random mutation, hypothesis or atheris. Inputs that once failed are kept in ``fuzz/corpus``.
"""
