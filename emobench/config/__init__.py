"""From the text of a config to a complete, checked `RunConfig`."""
