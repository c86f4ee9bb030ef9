"""Tunnel transport for Meshless: mutual TLS 1.3 between node agents.

The core talks to it through `meshless_core.hookspecs.Transport`; nothing in here knows what the streams carry.
"""
