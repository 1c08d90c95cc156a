"""`make chaos-tasks`: tasks and events under faults, with a record of every execution outside of the broker.

None may be lost, and none may run too early. Stage, faults and proxies are those of `chaos`; the rest is here.
"""
