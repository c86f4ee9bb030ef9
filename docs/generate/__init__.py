"""Writes `docs/reference/*.md` from the code, so that the reference cannot say something else than the program does.

`python -m docs.generate` writes, `python -m docs.generate --check` compares. One module per page. The pages are committed: a
change of a setting shows up in review as a change of its documentation. This package must not be imported by what we ship.
"""
