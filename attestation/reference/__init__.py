"""Reference values computed from what is going to run, before it runs anywhere.

Offline and reproducible: the same files and settings give the same measurement. Which
measurements a policy then wants is for the policy to say.
"""
