"""`make chaos`: servers and clients under load, one fault after another, and the promises checked by what was recorded.

Nothing here is imported by `amqp_rpc`. It ends every process that it started, and touches no broker but its own.
"""
