"""What travels between coordinator and clients."""
