"""Prometheus's rules. `python -m deploy.prometheus` writes them with links to your own runbooks and Grafana."""
