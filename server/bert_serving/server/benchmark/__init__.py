"""``bert-serving-benchmark``: how fast a setting of the server is, measured through a server and its clients."""
