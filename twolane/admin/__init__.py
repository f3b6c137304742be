"""`twolane admin`: ask a running gateway or worker over its admin port, also from within its container."""
