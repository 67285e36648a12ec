"""The simple design of a usage portal, which the benchmarks compare ours with.

It is what an installation has whose portal was written in a week: pods are polled every 30 s by the official Python
client, rows are read and written one by one through an ORM, and requests are answered by synchronous functions.

In its favour: the same PostgreSQL with the indexes that ours has, no TLS and no token towards the API server, lists of
its cache (resourceVersion=0), pods only (nodes are read when one is new), one transaction for each poll,
one connection that stays open. It does not reconcile, knows no groups, and writes no rollups.

models      two tables
poller      python -m poll_reference.poller: pods into sessions
limits      uvicorn poll_reference.limits:app: GET /users/{username}/limits
"""
