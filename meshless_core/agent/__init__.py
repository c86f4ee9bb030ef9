"""The node agent: accepts clients and tunnels, asks plugins, chooses, and hands both ends to the relay.

A client's way through the files: `client_side` accepts, `client_intake` reads its request, `client_connection` decides with
`admission`, chooses, and connects with `delivery` on this node or `outbound` to another; then the relay has it. At the far end
of a tunnel is `inbound`. What all share is in `runtime`; `agent` puts it together. It must not know a plugin by name.
"""
