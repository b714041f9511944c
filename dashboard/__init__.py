"""The page: rollout health for people."""
