"""What a request costs inside the gateway, without sockets; see `__main__`."""
