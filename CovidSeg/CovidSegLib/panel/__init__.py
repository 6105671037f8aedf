"""The sections of the module's panel, and what they share. Only these and `widget` know Qt."""
