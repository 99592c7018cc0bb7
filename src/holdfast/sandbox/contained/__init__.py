"""Code that runs in the sandbox's own interpreter: standard library only, imported by nobody but `worker.py`."""
