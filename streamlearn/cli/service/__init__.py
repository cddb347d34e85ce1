"""Commands about one service: run it, look at it, command it, and carry on with it elsewhere."""
