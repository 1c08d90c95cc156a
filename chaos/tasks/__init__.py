"""`make chaos-tasks`: tasks under faults, and every execution recorded outside: none is lost, and none comes too early.

Stage, faults and proxies are those of `chaos`; what tasks need beside them is here.
"""
