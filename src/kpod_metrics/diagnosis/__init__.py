"""What a pod waits for: one answer for the page at `/`, for `top`, for the alerts and for the dashboards."""
