"""Where actions come from: routers, simulations, recordings."""
