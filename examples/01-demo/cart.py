"""The cart: a server like any other, on a Unix socket the mesh knows by the service's name."""

import os
import socketserver

import meshless_sdk


class Cart(socketserver.BaseRequestHandler):
    """Says which version and pod answered, then echoes until the client is done."""

    def handle(self) -> None:
        self.request.sendall(f"{os.environ['VERSION']} {os.environ['POD_NAME']}\n".encode())
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread per connection, on a socket that listens already."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server("", Cart, bind_and_activate=False)
    server.socket.close()
    server.socket = meshless_sdk.listen("http")
    server.serve_forever()
