"""A server of ours for a queue of calls that a tutorial's server has declared: it uses the queue as it is."""

from amqp_rpc import Service
from services.fib import fib

service = Service(declare="passive")
service.rpc(default=True)(fib)
