"""The HTTP endpoint's outer half: connections and their limits, TLS, who may ask. It knows nothing of metrics."""
