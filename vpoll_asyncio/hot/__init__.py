"""The few classes that every event goes through, apart from everything else.

Each is here in Python, complete and correct.  What else a vpoll, a watch, a transport or
a stream of the memory stack can do is in subclasses and users of these, elsewhere.
"""
