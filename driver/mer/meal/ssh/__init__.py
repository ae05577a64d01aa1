"""Hosts that are reached by SSH: nothing is installed there but python3 and sshd. The only package that imports asyncssh."""
