"""From a recording to its emotion, and how long that takes."""
