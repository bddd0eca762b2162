"""Reads the requests and writes the responses of the routes.

``route_table`` lists the routes that encode texts. ``app`` adds all others.
"""
