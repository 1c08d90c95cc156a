"""Messages as they are on the wire: bytes, properties, headers, names on the broker, and the rules about them.

Pure values and functions: nothing here opens a connection, starts a thread or waits. It imports `errors` alone; every
other package imports it.
"""
