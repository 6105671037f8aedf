from helpers_cli import fake_engine

__all__ = ["fake_engine"]
