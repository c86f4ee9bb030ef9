"""Fixtures for applications' tests."""
