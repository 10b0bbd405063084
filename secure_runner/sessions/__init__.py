"""Sessions: party processes looked after, one epoch after the other.

A session is one agreed run context between the parties, numbered by its epoch. When any of its processes
dies, freezes or loses a peer, the session is over at all parties, its processes are killed, and the next
epoch starts in processes that were already waiting with their imports done.
"""
