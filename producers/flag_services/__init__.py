"""Flags that a service keeps: Unleash and FeatBit, read and changed through their management APIs."""
