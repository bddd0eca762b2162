"""The HTTP door: a client of the service like any other, behind Flask and waitress.

``proxy`` is the process; ``listener`` the sockets and threads; ``app`` the web application with the routes of
``encode``, ``openai``, ``operations`` and ``description``; ``door`` what they all share: the client, the limits, and
how many requests are worked on at a time.
"""
