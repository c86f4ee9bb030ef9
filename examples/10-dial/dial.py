"""Dial the cart: with a deadline, retries, and a key that keeps a customer with one version. Then be refused."""

from __future__ import annotations

import meshless_sdk

dialer = meshless_sdk.Dialer(deadline=10, sticky_key=b"customer 4711")

with dialer.connect("http.cart.shop") as connection:
    connection.sendall(b"a loaf of bread\n")
    print("echoed:", connection.recv(100).decode().strip())

try:
    dialer.connect("http.bank.shop")
except meshless_sdk.ConnectError as error:
    print("refused:", error.name, "retryable" if error.retryable else "final")
