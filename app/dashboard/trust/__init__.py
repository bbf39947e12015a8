"""Pages about trust: scorecards, what is behind them, and how one is made."""
