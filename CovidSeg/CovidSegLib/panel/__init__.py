"""The sections of the module's panel, and what they share. Only these, `widget` and `runner` know Qt."""
