"""A vault in a folder, for other machines: a small append-only server that enforces who may do what (``vault serve``).

    serve        a socket, a user without rights of root, TLS, and the life of the process
    connection   the HTTP server's own connection, with patience that ends
    app          one request: whose token, what it asks, may it, done
    upload       the bytes of one upload, checked against their digest
    tokens       who may ask: a file of hashes
    keeping      until when nothing may be deleted
    certificate  TLS without an authority: self-made, and pinned by clients
    account      what is told of requests: a log of JSON lines, figures for Prometheus

The other side is ``stores.gateway``; what both say to each other is in ``stores.wire``.
"""
