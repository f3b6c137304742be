"""Tracing with OpenTelemetry: sampling, spans and their export. Used by both programs."""
