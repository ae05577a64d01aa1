"""What a key of `authorized_keys` may be lent: models to run and to look at, and nothing else (docs/serve-ssh.md)."""
