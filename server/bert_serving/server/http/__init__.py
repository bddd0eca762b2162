"""The HTTP server: a client of the service behind uvicorn and Flask.

``process`` runs the child process, ``server`` owns sockets and threads, and ``app`` builds the web application from
``routes``. `EncodingService`, shared by all routes, holds the client, the limits and the concurrency limiter.
"""
