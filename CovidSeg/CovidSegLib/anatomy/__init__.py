"""Where body, chest and lungs lie, which side is which, and what is no lung though it looks like it."""
