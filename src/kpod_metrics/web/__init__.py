"""The outer half of the HTTP endpoint: connections, limits, TLS, authentication. It knows nothing about metrics."""
