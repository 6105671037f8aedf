"""Train, evaluate and cross-validate the networks that CovidSeg runs; built on CovidSeg's own engine."""
