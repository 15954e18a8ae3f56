"""A generated corpus of the design of RAVDESS: who says what, with which voice, and how it sounds."""
