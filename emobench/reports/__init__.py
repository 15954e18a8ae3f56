"""From the tidy tables to what people read."""
