"""What a run shows of itself: declared metrics, the sinks they go to, the console and the report."""
