"""Puts numbers into two queues, the even and the odd ones, and waits until all are done, wherever that is.

Run it in one terminal, and in two others ``python -m examples.numbers_consumer even`` and ``… odd``; before or after.
"""

from amqp_rpc import Client

with Client() as client:
    queues = [client.queue("numbers.even"), client.queue("numbers.odd")]
    for number in range(10):
        queues[number % 2].put(number)  # it returns once the broker has it safe
    for queue in queues:
        queue.put(None)  # no more
    print("all are put; waiting until they are done", flush=True)
    for queue in queues:
        queue.join()
    print("all are done")
