"""Grafana's dashboard and where it finds its data."""
