"""`make chaos`: servers and clients under load, one fault after another; the records must show every promise kept.

`amqp_rpc` imports nothing from here. It ends every process that it started, and touches no broker but its own.
"""
