"""Canary selection for Meshless: every version gets exactly its declared share of new connections."""
