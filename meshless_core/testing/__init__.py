"""Conformance checks for plugins and the core's own parts: what each contract promises, as functions any test runner can call.

Nothing here imports a test framework: a plugin's author runs these with the one they have. A check raises AssertionError.
"""
