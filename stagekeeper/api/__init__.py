"""The HTTP service: decisions, reviews, reports and the gate, for routers in any language."""
