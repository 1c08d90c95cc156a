"""`make chaos-tasks`: tasks and events under faults, and every execution recorded outside.

None is lost, and none comes too early. Stage, faults and proxies are those of `chaos`; what tasks need beside is here.
"""
