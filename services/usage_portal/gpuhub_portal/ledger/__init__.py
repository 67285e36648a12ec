"""The ledger: which pod held what from when to when, which node had what, and what was idle.

facts      what is known about a pod, merged in any order; the interval that follows from it (pure)
capacity   what is known about a node's devices over time (pure)
idle       a node's idle devices as a function of time (pure)
rollups    seconds per hour (pure)
store      one fenced transaction that applies a batch of all this to PostgreSQL
reports    usage by hour, and the proof that the books balance

Times are whole seconds since 1970 in Python and timestamptz in the database. Intervals are half open.
"""
