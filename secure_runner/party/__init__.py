"""The party process: one organisation's share of a computation, in a process of its own.

A party process is started warm (its imports done), is told one session, serves it, and ends with it. It is
never reused: a process whose link has failed cannot be trusted to link again.
"""
