"""Put the even and the odd numbers into two queues, and wait until consumers are done with all of them.

Run it in one terminal, and ``python -m examples.numbers_consumer even`` and ``… odd`` in two others, in any order.
"""

from amqp_rpc import Client

with Client() as client:
    queues = [client.queue("numbers.even"), client.queue("numbers.odd")]
    for number in range(10):
        queues[number % 2].put(number)  # returns after the broker's confirm
    for queue in queues:
        queue.put(None)  # no more
    print("all are put; waiting until they are done", flush=True)
    for queue in queues:
        queue.join()
    print("all are done")
