"""How good a bundle is: aims, variants of a CT, and how far its probabilities can be believed."""
