"""The simulated ESP: listmonk's REST dialect, sender and failures, in a process of its own.

Start it with `SimulatedEsp`. What is listmonk's (v6.2.0) and what is our extension is said where it stands.
"""
