"""Measures Meshless, its peers and the bare socket side by side on the same work, interleaved in one run.

Start it with `python -m bench`. Only ratios within one run mean anything: absolute figures belong to the machine and the
minute they were taken in. This package must not import `meshless_core`: it uses Meshless the way a user does.
"""
