"""A client handshake for Meshless: HTTP/1.1, by CONNECT or by plain requests whose Host is a service id."""
