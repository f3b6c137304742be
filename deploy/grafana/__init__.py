"""Twolane's Grafana dashboards as code. `python -m deploy.grafana` writes `dashboards/`."""
