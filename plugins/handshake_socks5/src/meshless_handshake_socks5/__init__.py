"""A client handshake for Meshless: SOCKS version 5 (RFC 1928), CONNECT to a service by its name."""
