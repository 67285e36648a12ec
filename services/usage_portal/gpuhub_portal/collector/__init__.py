"""The collector: follows pods and nodes of the cluster and writes the ledger. One leads, others wait.

kube       the four verbs of the API server that it needs
view       the cluster as it is now, and what the ledger has not been told yet (pure)
follow     list, watch, and what to do when either breaks
lease      which collector leads
process    all of it together
"""
